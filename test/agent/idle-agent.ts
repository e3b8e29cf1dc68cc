import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { Agent } from '../../src/agent/agent.ts';
import { agentApi } from '../../src/agent/views/api.ts';
import { Reloader } from '../../src/api/reloader.ts';
import type { AgentApi } from '../../src/api/types.ts';
import { loadConfig } from '../../src/config/load.ts';
import { silentLog } from '../../src/observe/log.ts';
import { openMetrics } from '../../src/observe/metrics.ts';

export interface IdleAgent {
  readonly agent: Agent;
  readonly api: AgentApi;
}

/** An agent that was not started: it has tables and views, and touches neither network nor kernel. */
export async function idleAgent(t: TestContext): Promise<IdleAgent> {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-idle-'));
  const file = join(folder, 'config.yaml');
  writeFileSync(file, JSON.stringify({ name: 'my-vm', policies: join(folder, 'policies.d') }));
  const { config, files } = await loadConfig({ file, stateDir: folder, socket: join(folder, 'sock'), env: {} });
  const metrics = openMetrics({ version: '0', commit: '0' } as Parameters<typeof openMetrics>[0]);
  const agent = new Agent({ config, log: silentLog, metrics, onChange: () => {} });
  t.after(async () => {
    await agent.stop();
    metrics.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const reload = () => Promise.resolve({ changed: [], waiting: [], files });
  const reloader = new Reloader({ files, health: agent.health, log: silentLog, onBusy: () => {}, reload });
  return { agent, api: agentApi(agent, () => reloader.view) };
}
