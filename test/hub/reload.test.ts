import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { ConfigurationRecord } from '../../src/api/types.ts';
import { hubFolder } from '../../src/hub/folder.ts';
import { HubHost } from '../lab/hub-host.ts';
import { Topology } from '../lab/topology.ts';

/** `hub.yaml` is changed while the hub leads. */
const METRICS = '127.0.0.1:19965';

let folder: string;
let topology: Topology;
let hub: HubHost;
let yaml: string;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-hub-reload-'));
  topology = new Topology();
  hub = new HubHost({ place: topology.host('hub', 5), folder });
  await hub.init();
  yaml = `${readFileSync(hubFolder(hub.stateDir).config, 'utf8')}\n`;
  write('metrics: {listen: ""}\n');
  hub.start();
  await hub.untilLeading();
});
after(async () => {
  await hub?.stop();
  await topology?.close();
  rmSync(folder, { recursive: true, force: true });
});

function write(more: string): void {
  writeFileSync(hubFolder(hub.stateDir).config, yaml + more);
}

/** By the command that `systemctl reload` runs. */
async function reload(more: string): Promise<Pick<ConfigurationRecord, 'changed' | 'waiting' | 'problems'>> {
  write(more);
  const { stdout, stderr } = await hub.run('reload', '-o', 'json');
  assert.notEqual(stdout, '', stderr);
  return JSON.parse(stdout) as ConfigurationRecord;
}

const metrics = (): string => hub.place.namespace.run('curl', '-sS', `http://${METRICS}/metrics`);

test('log and metrics follow while the hub leads on', async () => {
  const { pid } = await hub.status();
  const answer = await reload(`metrics: {listen: "${METRICS}"}\nlog: {level: debug}\n`);
  assert.deepEqual([answer.changed, answer.waiting], [['log.level', 'metrics.listen'], []]);
  assert.match(metrics(), /mesh_agent_hub/);
  assert.deepEqual((await reload('metrics: {listen: ""}\n')).changed, ['log.level', 'metrics.listen']);
  assert.throws(metrics);
  const status = await hub.untilLeading();
  assert.deepEqual([status.pid, status.state], [pid, 'ok']);
});

test('what needs a restart is named, what is wrong changes nothing', async () => {
  const later = await reload('metrics: {listen: ""}\ncertificates: {life: 1d}\n');
  assert.deepEqual(later.waiting, ['certificates.life']);
  const wrong = await reload(`metrics: {listen: "${METRICS}"}\nlog: {level: loud}\n`);
  assert.match(wrong.problems[0]?.place ?? '', /hub\.yaml:[0-9]+$/);
  assert.deepEqual([wrong.changed, wrong.waiting], [[], ['certificates.life']]);
  assert.throws(metrics);
  const codes = (await hub.status()).health.map(({ code }) => code).sort();
  assert.deepEqual(codes, ['CFG-RELOAD', 'CFG-RESTART']);
  assert.deepEqual((await reload('metrics: {listen: ""}\n')).waiting, []);
  assert.equal((await hub.status()).state, 'ok');
});
