import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { assertReach, type Expected, PORTS } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { Namespace, until } from '../lab/namespace.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/** The machine boots while its hub is away: what was last known to be right is in force before there is a network. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'world > my-vm': 'none',
  'my-vm > cluster-a/batch': 'all',
};
const MAIN = join(import.meta.dirname, '../../src/main.ts');

let lab: MeshLab;
let file: string;

before(async () => {
  lab = await startStory([CLUSTER_A]);
  await enforce(lab, CROSS_CLUSTER);
  await assertReach(lab, EXPECTED);
  file = join(lab.agent.stateDir, 'last-good', 'snapshot');
});
after(() => lab?.close());

function restore(
  namespace: Namespace,
  ...args: string[]
): { code: number; record: Record<string, unknown>; stderr: string } {
  const { stateDir, configFile } = lab.agent;
  const program =
    process.env.MESH_AGENT === undefined ? [process.execPath, '--no-warnings', MAIN] : [process.env.MESH_AGENT];
  const [command = '', ...before] = program;
  const variables = args.filter((arg) => arg.startsWith('MESH_AGENT_'));
  const all = [
    ...before,
    'restore',
    '--config',
    configFile,
    '--state-dir',
    stateDir,
    '-o',
    'json',
    ...args.slice(variables.length),
  ];
  const { code, stdout, stderr } = namespace.try('env', ...variables, command, ...all);
  return { code, stderr, record: stdout === '' ? {} : (JSON.parse(stdout) as Record<string, unknown>) };
}

/** What a boot leaves of us in the kernel: nothing. */
function powerCycle(): void {
  const { namespace } = lab.machine;
  namespace.feed(
    'add table inet mesh_agent\ndelete table inet mesh_agent\nadd table netdev mesh_agent\ndelete table netdev mesh_agent\n',
    'nft',
    '-f',
    '-',
  );
  namespace.run('ip', 'link', 'delete', 'mesh_vxlan');
}

test('the snapshot follows what is in force, for its owner alone', async () => {
  const { lastGood } = await lab.agent.untilStatus(
    'a snapshot is written',
    (status) => status.lastGood?.enforced === 'live',
  );
  assert.ok(lastGood !== undefined && lastGood.savedAt <= Date.now());
  assert.equal(statSync(file).mode & 0o777, 0o600);
  // The policy is newer than the first snapshot, maybe.
  await lab.agent.stop();
  assert.equal(restore(lab.machine.namespace).record.outcome, 'in-force');
});

test('it is loaded where there is no device and no address yet', async () => {
  const bare = new Namespace('boot');
  try {
    const { code, record, stderr } = restore(bare);
    assert.equal(code, 0, stderr);
    assert.equal(record.outcome, 'restored');
    assert.ok((record.addresses as number) > 3);
    assert.match(bare.run('nft', 'list', 'table', 'inet', 'mesh_agent'), /hook prerouting/);
  } finally {
    await bare.close();
  }
});

for (const [what, damage] of [
  ['damaged', (bytes: Buffer) => bytes.fill(7, bytes.length >> 1, (bytes.length >> 1) + 4)],
  ['cut off', (bytes: Buffer) => bytes.subarray(0, bytes.length - 9)],
  ['of another version', (bytes: Buffer) => Buffer.concat([Buffer.from('MESHLG07'), bytes.subarray(8)])],
  ['something else', () => Buffer.from('#!/bin/sh\n')],
] as const) {
  test(`a snapshot that is ${what} is refused, and only what the operator wants instead is enforced`, async () => {
    const good = readFileSync(file);
    const bare = new Namespace('boot');
    try {
      writeFileSync(file, damage(Buffer.from(good)));
      const refused = restore(bare);
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /AGT-LASTGOOD/);
      assert.equal(bare.try('nft', 'list', 'table', 'inet', 'mesh_agent').code, 1);
      const closed = restore(bare, 'MESH_AGENT_LAST_GOOD_FALLBACK=failsafe');
      assert.equal(closed.code, 1);
      assert.equal(closed.record.outcome, 'failsafe');
      assert.match(bare.run('nft', 'list', 'table', 'inet', 'mesh_agent'), /hook prerouting/);
    } finally {
      writeFileSync(file, good);
      await bare.close();
    }
  });
}

test('a snapshot of a machine of another name is refused', () => {
  const { code, stderr } = restore(lab.machine.namespace, 'MESH_AGENT_NAME=another', '--check');
  assert.equal(code, 1);
  assert.match(stderr, /it is of a machine named my-vm/);
});

test('a boot without a store: the rules first, then the tunnels, and the facts have an age', async () => {
  await lab.cluster('cluster-a').door.shut();
  powerCycle();
  assert.equal(restore(lab.machine.namespace).record.outcome, 'restored');
  // Before any agent runs; what comes by the overlay has no way yet.
  await assertReach(lab, { 'world > my-vm': 'none' });
  lab.agent.start();
  const status = await lab.agent.untilStatus('the tunnels are back', ({ routing }) => routing.routes > 0);
  assert.equal(status.lastGood?.enforced, 'snapshot');
  assert.ok((status.lastGood?.confirmedAt ?? 0) > 0);
  assert.equal(status.state, 'degraded');
  assert.equal(status.machine.cluster?.name, 'cluster-a');
  assert.ok(status.machine.labels.includes('k8s:app=backend'), status.machine.labels.join());
  assert.match((await lab.agent.run('status')).stdout, /Last good: +the snapshot is in force, with facts \d+\w* old/);
  await assertReach(lab, EXPECTED);
});

test('a foreign hand that takes the rules away while the store is gone finds them back', async () => {
  const { namespace } = lab.machine;
  namespace.run('nft', 'delete', 'table', 'inet', 'mesh_agent');
  await until(
    'the rules are back',
    () => namespace.try('nft', 'list', 'chain', 'inet', 'mesh_agent', 'entering').code === 0,
  );
  await lab.agent.untilStatus('the rules are whole', ({ datapath }) => datapath.applied && datapath.healed > 0);
  await assertReach(lab, EXPECTED);
});

test('the store comes back: no packet is lost, none is let in, and only differences are changed', async () => {
  const { ipv4 } = lab.machine;
  const [frontend, batch] = ['frontend', 'batch'].map((name) => lab.cluster('cluster-a').place(name));
  assert.ok(frontend !== undefined && batch !== undefined);
  const [allowed, forbidden] = await Promise.all([
    frontend.flow(ipv4, PORTS.udp, { fresh: true, everyMs: 5 }),
    batch.flow(ipv4, PORTS.udp, { fresh: true, everyMs: 5 }),
  ]);
  await lab.cluster('cluster-a').door.open();
  await lab.agent.untilReady();
  await lab.agent.untilStatus('facts are live', ({ lastGood }) => lastGood?.enforced === 'live');
  const [first, second] = await Promise.all([allowed.stop(), forbidden.stop()]);
  assert.ok(first.sent > 50, `${first.sent} sent`);
  assert.equal(first.received, first.sent);
  assert.equal(second.received, 0);
  await assertReach(lab, EXPECTED);
});
