import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { FlowEvent } from '../../src/api/flow-types.ts';
import type { KernelConnectionRecord } from '../../src/api/types.ts';
import { assertReach, type Expected, PORTS } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/** An agent that enforces with eBPF: what its operator sees, and how it comes and goes. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'world > my-vm': 'none',
  'my-vm > cluster-a/batch': 'all',
};

let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A], { config: { datapath: 'bpf' } });
  await enforce(lab, CROSS_CLUSTER);
});
after(() => lab?.close());

/** What is pinned of the policy. */
function pins(): string[] {
  const root = join(lab.machine.namespace.bpf.path, 'mesh-agent');
  const folders = existsSync(root) ? readdirSync(root).map((name) => join(root, name)) : [];
  return folders.flatMap((folder) => readdirSync(folder)).filter((name) => name.startsWith('policy-'));
}

const tables = (): string => lab.machine.namespace.run('nft', 'list', 'tables');

async function start(config: Readonly<Record<string, unknown>>): Promise<void> {
  await lab.agent.stop();
  lab.agent.configure(config);
  lab.agent.start();
  await lab.agent.untilReady();
}

test('the policy of the clusters is enforced, and no table of the packet filter is there', async () => {
  await assertReach(lab, EXPECTED);
  assert.equal((await lab.agent.status()).datapath.name, 'bpf');
  assert.doesNotMatch(tables(), /mesh_agent/);
  assert.ok(pins().length > 0);
});

test('the lists of the kernel, drops as they happen, and doctor tell the truth', async () => {
  const frontend = lab.cluster('cluster-a').place('frontend');
  const connection = await frontend.open(lab.machine.ipv4, PORTS.tcp);
  const addresses = await lab.agent.json<{ items: { prefix: string }[] }>('bpf', 'ipcache', 'list');
  assert.ok(addresses.items.some(({ prefix }) => prefix === `${frontend.ipv4}/32`));
  const rows = await lab.agent.json<{ items: { direction: string; packets: number }[] }>('bpf', 'policy', 'list');
  assert.ok(rows.items.some(({ direction, packets }) => direction === 'ingress' && packets > 0));
  const list = await lab.agent.json<{ items: KernelConnectionRecord[] }>('bpf', 'ct', 'list');
  const ours = list.items.filter(({ local, state }) => local.endsWith(`:${PORTS.tcp}`) && state === 'open');
  assert.deepEqual(
    ours.map(({ direction, protocol, remote }) => [direction, protocol, remote.startsWith(`${frontend.ipv4}:`)]),
    [['ingress', 'TCP', true]],
  );
  await connection.close();

  const leave = new AbortController();
  const flows: FlowEvent[] = [];
  const following = (async () => {
    for await (const event of lab.agent.api.flows({ follow: '1', verdict: 'dropped' }, leave.signal)) flows.push(event);
  })();
  const batch = lab.cluster('cluster-a').place('batch');
  await until('a drop is told of', async () => {
    await batch.probe({ protocol: 'tcp', to: lab.machine.ipv4, port: PORTS.tcp, timeoutMs: 100 });
    return flows.some((event) => 'flow' in event && event.flow.source.address === batch.ipv4);
  });
  leave.abort();
  await following;
  const { stdout } = await lab.agent.runThere('doctor', '-o', 'json');
  assert.match(stdout, /the kernel takes the eBPF programs/);
  assert.doesNotMatch(stdout, /DPN-|DPB-/);
});

test('an agent that is killed leaves the policy, and the next one loses no packet', async () => {
  const [frontend, batch] = ['frontend', 'batch'].map((name) => lab.cluster('cluster-a').place(name));
  const { ipv4 } = lab.machine;
  const allowed = await frontend?.flow(ipv4, PORTS.udp, { everyMs: 5, fresh: true });
  const forbidden = await batch?.flow(ipv4, PORTS.udp, { everyMs: 5, fresh: true });
  const before = pins();
  await lab.agent.kill();
  await assertReach(lab, EXPECTED);
  lab.agent.start();
  await lab.agent.untilReady();
  const [passed, stopped] = [await allowed?.stop(), await forbidden?.stop()];
  assert.deepEqual([passed?.received, stopped?.received], [passed?.sent, 0]);
  assert.deepEqual(pins(), before);
});

test('the snapshot of the last run is in force before any store is asked', async () => {
  await until('a snapshot is kept', () => existsSync(join(lab.agent.stateDir, 'last-good', 'snapshot')));
  await lab.agent.stop();
  const { code, stdout } = await lab.agent.runThere('restore', '--force');
  assert.equal(code, 0, stdout);
  assert.match(stdout, /are in force/);
  await assertReach(lab, EXPECTED);
  lab.agent.start();
  await lab.agent.untilReady();
});

test('to nftables and back: the old data path stays until the new one is in force, and nothing is left of it', async () => {
  const batch = lab.cluster('cluster-a').place('batch');
  const forbidden = await batch.flow(lab.machine.ipv4, PORTS.udp, { everyMs: 5, fresh: true });
  await start({ datapath: 'nftables' });
  assert.match(tables(), /mesh_agent/);
  assert.deepEqual(pins(), []);
  await assertReach(lab, EXPECTED);
  await start({ datapath: 'bpf' });
  assert.doesNotMatch(tables(), /mesh_agent/);
  await assertReach(lab, EXPECTED);
  assert.equal((await forbidden.stop()).received, 0);
});

test('leaving takes everything away', async () => {
  const { code, stderr } = await lab.agent.runThere('leave', '--yes', '--local');
  assert.equal(code, 0, stderr);
  assert.deepEqual(pins(), []);
  const batch = lab.cluster('cluster-a').place('batch');
  const { namespace } = lab.machine;
  assert.doesNotMatch(namespace.run('ip', 'link', 'show'), /mesh_vxlan/);
  assert.equal(namespace.try('tc', 'filter', 'show', 'dev', 'eth0', 'ingress').stdout, '');
  assert.ok(batch.ipv4 !== '');
});
