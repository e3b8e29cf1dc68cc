import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { serveApi } from '../../src/api/server.ts';
import { memoryAgent, status as statusWith } from '../api/memory-agent.ts';
import { runHere } from './run-here.ts';

test('whoever answers on a socket cannot make a reload signal any other process than one agent', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-reload-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const configuration = { files: [], readAt: 0, requested: 0, completed: 0, changed: [], waiting: [], problems: [] };
  let pid: unknown;
  const agent = statusWith().agent;
  const status = () => statusWith({ configuration, agent: { ...agent, pid: pid as number } });
  const socket = join(folder, 'agent.sock');
  const server = await serveApi({ socket, api: memoryAgent({ status }) });
  t.after(() => server.close());
  const kill = t.mock.method(process, 'kill', () => true);
  for (pid of [-1, 0, 1, -4711, 2.5, '1', null]) {
    const { code, stderr } = await runHere(['config', 'reload', '--socket', socket]);
    assert.equal(code, 1);
    assert.match(stderr, /it says that it is process/);
  }
  assert.equal(kill.mock.callCount(), 0);
});
