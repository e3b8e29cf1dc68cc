import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Fleet } from '../lab/hub-fleet.ts';
import { assertReach, serveEverywhere } from '../lab/matrix.ts';
import { CLUSTER_A, CLUSTER_B } from '../lab/story.ts';

/** From nothing to an enforced policy: the hub, clusters that it is connected to and that read it, a machine with a token. */
const LIMIT_MS = 30_000;
const SUBJECT = { endpointSelector: { matchLabels: { app: 'backend' } } };
const ADDRESSES = ['10.192.0.0/30', '10.192.0.1/32', '192.168.100.10/32', 'fd00:100::10/128'];
let fleet: Fleet;

before(async () => {
  fleet = new Fleet();
  await fleet.hub.init();
  fleet.hub.start();
  await Promise.all([fleet.hub.untilLeading(), fleet.add(CLUSTER_A), fleet.add(CLUSTER_B)]);
  fleet.machineFor('my-vm');
  await serveEverywhere(fleet);
});
after(() => fleet?.close());

test('clusters are connected, and read an empty hub as an ordinary remote cluster', async () => {
  for (const [name, admitted] of [['cluster-a'], ['cluster-b', ['k8s:app=backend']]] as const) {
    const { verdicts } = await fleet.connect(name);
    assert.deepEqual(
      verdicts.filter(({ state }) => state === 'error'),
      [],
    );
    const { facts } = await fleet.peer(name, admitted);
    assert.deepEqual([facts.ready, facts.nodes, facts.addresses], [true, [], []]);
  }
  const { counts } = await fleet.remote('cluster-a');
  assert.deepEqual([counts.nodes, counts.ip, counts.identities], [1, 4, 2]);
});

test('from the token to a machine that enforces the policies of the hub, in time', async () => {
  const policy = { ...SUBJECT, ingress: [{ fromEndpoints: [{ matchLabels: { app: 'frontend' } }] }] };
  assert.match(await fleet.apply('web', policy), /created/);
  await fleet.create('my-vm');
  const began = performance.now();
  const status = await fleet.join('my-vm');
  const took = performance.now() - began;
  assert.ok(took < LIMIT_MS, `${took} ms`);
  const record = await fleet.workload('my-vm');
  assert.deepEqual([record.state, record.reason, record.refused, record.claims], ['registered', null, [], []]);
  assert.equal(status.machine.identity, record.identity);
  assert.deepEqual([status.state, status.health], ['ok', []]);
  assert.equal(status.policy.ingress, 'Enabled');
});

test('clusters know it as a node with addresses, range and identity, and send it the packets of their pods', async () => {
  const { identity } = await fleet.workload('my-vm');
  for (const name of ['cluster-a', 'cluster-b']) {
    const { nodes, addresses } = await fleet
      .peerOf(name)
      .until('it knows the machine', (facts) => facts.addresses.length === ADDRESSES.length);
    assert.deepEqual(nodes, [
      { name: 'my-vm', addresses: ['192.168.100.10', 'fd00:100::10', '10.192.0.1'], ranges: ['10.192.0.0/30'] },
    ]);
    assert.deepEqual(addresses.map(({ prefix }) => prefix).sort(), ADDRESSES);
    for (const each of addresses) assert.deepEqual([each.identity, each.host], [identity, '192.168.100.10']);
    assert.deepEqual(fleet.peerOf(name).address('192.168.100.10')?.labels, [
      'k8s:app=backend',
      'k8s:env=production',
      'k8s:io.cilium.k8s.policy.cluster=vms',
      'k8s:io.kubernetes.pod.namespace=production',
    ]);
  }
  await assertReach(fleet, {
    'cluster-a/frontend > my-vm': 'all',
    'cluster-a/batch > my-vm': 'none',
    'cluster-b/frontend > my-vm': 'all',
    'world > my-vm': 'none',
    'my-vm > cluster-a/frontend': 'all',
    'my-vm > cluster-b/frontend': 'all',
  });
  assert.deepEqual(fleet.cluster('cluster-a').node.seenIdentities(), [identity]);
});

test('labels that change at the hub change what the machine is, for its own policies and for those of clusters', async () => {
  const before_ = await fleet.workload('my-vm');
  await fleet.apply('db', {
    endpointSelector: { matchLabels: { app: 'database' } },
    ingress: [{ fromEndpoints: [{ matchLabels: { app: 'batch' } }] }],
  });
  await fleet.hub.must('workload', 'set', 'my-vm', '--label', 'app=database');
  const status = await fleet.agent.untilStatus(
    'it is the new one',
    ({ machine, registration, datapath }) =>
      machine.labels.includes('k8s:app=database') && registration.state === 'registered' && datapath.applied,
  );
  assert.notEqual(status.machine.identity, before_.identity);
  const { identity } = await fleet.workload('my-vm');
  for (const name of ['cluster-a', 'cluster-b'])
    await fleet
      .peerOf(name)
      .until(
        'it knows the machine by the new labels',
        () => fleet.peerOf(name).address('192.168.100.10')?.labels.includes('k8s:app=database') === true,
      );
  await assertReach(fleet, {
    'cluster-a/frontend > my-vm': 'none',
    'cluster-a/batch > my-vm': 'all',
    'my-vm > cluster-a/frontend': 'all',
    // Its pods admit the backend alone.
    'my-vm > cluster-b/frontend': 'none',
  });
  assert.ok(
    fleet
      .cluster('cluster-a')
      .node.seenIdentities()
      .includes(identity ?? 0),
  );
  // The addresses never went away in between.
  const { removed } = fleet.peerOf('cluster-a').facts;
  assert.deepEqual(
    removed.filter((key) => !key.startsWith('identities/')),
    [],
  );
  await fleet.hub.must('workload', 'set', 'my-vm', '--label', 'app=backend');
  await assertReach(fleet, { 'cluster-a/frontend > my-vm': 'all', 'my-vm > cluster-b/frontend': 'all' }, 10_000);
});
