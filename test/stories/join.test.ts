import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { MeshLab, WORKLOAD } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A } from '../lab/story.ts';
import type { Registration } from '../lab/workload.ts';

/** A machine registers with a cluster of Cilium 1.16 as one of its external workloads (kvstore specification 6.2). */
const KEY = 'cilium/state/noderegister/v1/my-vm';
const NOTHING = {
  IPv4SecondaryAllocCIDRs: null,
  IPv6SecondaryAllocCIDRs: null,
  IPv4HealthIP: '',
  IPv6HealthIP: '',
  IPv4IngressIP: '',
  IPv6IngressIP: '',
  EncryptionKey: 0,
  WireguardPubKey: '',
};
const LABELS = {
  app: 'backend',
  env: 'production',
  'io.cilium.k8s.policy.cluster': 'cluster-a',
  'io.kubernetes.pod.name': 'my-vm',
  'io.kubernetes.pod.namespace': 'production',
};

let lab: MeshLab;
let keysBefore: string[];

before(async () => {
  lab = await MeshLab.start([CLUSTER_A], { workload: null });
  keysBefore = await keys();
  lab.agent.start();
});
after(() => lab?.close());

async function keys(): Promise<string[]> {
  const text = await lab.cluster('cluster-a').etcd.ctl('get', '--prefix', '--keys-only', '');
  return text.split('\n').filter((line) => line !== '');
}

function registrations(): Registration[] {
  return (lab.cluster('cluster-a').workloads.history.get('my-vm') ?? []).map((text) => JSON.parse(text));
}

test('while nobody answers, status says what the machine waits for, and the kernel is left alone', async () => {
  const { registration, state } = await lab.agent.untilStatus(
    'the announcement is made',
    (status) => status.registration.state === 'announced',
  );
  assert.equal(state, 'not-joined');
  assert.equal(registration.key, KEY);
  assert.match(registration.waitingFor ?? '', /my-vm/);
  assert.match(registration.waitingFor ?? '', /external workload/);
  const { code, stdout } = await lab.agent.run('status');
  assert.equal(code, 5, stdout);
  assert.match(stdout, /external workload/);
  assert.doesNotMatch(lab.machine.namespace.run('nft', 'list', 'tables'), /mesh_agent/);
});

test('the announcement carries the name alone, under a lease of fifteen minutes', async () => {
  await until('the cluster sees the announcement', () => registrations().length > 0);
  assert.deepEqual(registrations()[0], {
    Name: 'my-vm',
    Cluster: '',
    IPAddresses: null,
    IPv4AllocCIDR: null,
    IPv6AllocCIDR: null,
    ClusterID: 0,
    Source: 'local',
    Labels: null,
    Annotations: null,
    NodeIdentity: 0,
    BootID: '',
    ...NOTHING,
  });
  const found = (await lab.cluster('cluster-a').facts.store.list(KEY))[0];
  assert.ok(found !== undefined && found.lease !== 0n);
  const lease = await lab.cluster('cluster-a').etcd.ctl('lease', 'timetolive', found.lease.toString(16));
  assert.match(lease, /granted with TTL\(900s\)/);
});

test('the answer is adopted, and the second value carries what the cluster needs to publish the machine', async () => {
  await lab.cluster('cluster-a').workloads.apply(WORKLOAD);
  const { machine, registration } = await lab.agent.untilReady();
  const [answer, last] = registrations().slice(-2);
  const identity = answer?.NodeIdentity ?? 0;
  assert.deepEqual(last, {
    Name: 'my-vm',
    Cluster: 'cluster-a',
    IPAddresses: [
      { Type: 'InternalIP', IP: '192.168.100.10' },
      { Type: 'InternalIP', IP: 'fd00:100::10' },
      { Type: 'CiliumInternalIP', IP: '10.192.1.1' },
    ],
    IPv4AllocCIDR: { IP: '10.192.1.0', Mask: '////AA==' },
    IPv6AllocCIDR: null,
    ClusterID: 1,
    Source: 'local',
    Labels: LABELS,
    Annotations: {},
    NodeIdentity: identity,
    BootID: lab.machine.namespace.run('cat', '/proc/sys/kernel/random/boot_id').trim(),
    ...NOTHING,
  });
  assert.equal(machine.identity, identity);
  assert.deepEqual(machine.cluster, { name: 'cluster-a', id: 1 });
  assert.deepEqual([machine.ipv4, machine.ipv6], ['192.168.100.10', 'fd00:100::10']);
  assert.deepEqual(machine.ranges, ['10.192.1.0/24']);
  assert.deepEqual(
    [...machine.labels].sort(),
    Object.entries(LABELS)
      .map(([key, value]) => `k8s:${key}=${value}`)
      .sort(),
  );
  assert.equal(registration.waitingFor, undefined);
});

test('the values have the fields in the order and form of Go, which an exact reader may rely on', () => {
  const [first = ''] = lab.cluster('cluster-a').workloads.history.get('my-vm') ?? [];
  assert.equal(
    first,
    '{"Name":"my-vm","Cluster":"","IPAddresses":null,"IPv4AllocCIDR":null,"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":0,"Source":"local","EncryptionKey":0,"Labels":null,"Annotations":null,"NodeIdentity":0,"WireguardPubKey":"","BootID":""}',
  );
});

test('the cluster publishes the machine, and the machine wrote nothing but its own key', async () => {
  const published = [
    'cilium/state/ip/v1/default/10.192.1.1',
    'cilium/state/ip/v1/default/192.168.100.10',
    'cilium/state/ip/v1/default/fd00:100::10',
    'cilium/state/nodes/v1/cluster-a/my-vm',
  ];
  const identity = `cilium/state/identities/v1/id/${(await lab.agent.status()).machine.identity}`;
  await until('the machine is published', async () => (await keys()).includes('cilium/state/nodes/v1/cluster-a/my-vm'));
  const added = (await keys()).filter((key) => !keysBefore.includes(key));
  assert.deepEqual(added.sort(), [KEY, identity, ...published].sort());
});

test('a joined machine reports itself ready to the command line', async () => {
  assert.equal((await lab.agent.run('status', '--brief')).code, 0);
  const { stdout } = await lab.agent.run('endpoint', 'list');
  assert.match(stdout, /k8s:app=backend/);
  assert.match(stdout, /192\.168\.100\.10/);
  const nodes = (await lab.agent.run('node', 'list')).stdout;
  assert.match(nodes, /cluster-a\/node-1 +192\.168\.100\.21 +10\.244\.1\.0\/24/);
});
