import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ClusterRecord, ServiceRecord, StatusRecord } from '../../src/api/types.ts';
import { StandInCluster } from '../lab/cluster.ts';
import { assertReach } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, enforce, fromFrontendOf, policyFor, startStory } from '../lab/story.ts';

/** Remote clusters come and go by file, by cache, with conflicts and with bad values. */
let lab: MeshLab;
/** In the etcd of cluster-a, as its KVStoreMesh would write it. */
let cached: StandInCluster;

before(async () => {
  lab = await startStory([CLUSTER_A]);
  await lab.add(CLUSTER_B);
  const { etcd, pki } = lab.cluster('cluster-a');
  cached = new StandInCluster({
    name: 'cluster-c',
    id: 3,
    layout: 'cached',
    etcd: { endpoints: etcd.endpoints, ...pki.client('root') },
  });
  await enforce(lab, policyFor('web', { ingress: [fromFrontendOf('cluster-b')] }));
});
after(async () => {
  await cached?.close();
  await lab?.close();
});

const clusterOf = (status: StatusRecord, name: string): ClusterRecord | undefined =>
  status.clusters.find((cluster) => cluster.name === name);

async function identityAt(address: string): Promise<number> {
  return (await lab.agent.api.ipcacheGet(address)).identity;
}

test('a remote cluster is followed as soon as its file is there, and its pods are known by their labels', async () => {
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'none' });
  lab.connect('cluster-b');
  const status = await lab.agent.untilStatus(
    'cluster-b is ready',
    (now) => clusterOf(now, 'cluster-b')?.ready === true,
  );
  const record = clusterOf(status, 'cluster-b');
  assert.equal(record?.kind, 'remote');
  assert.equal(record?.id, 2);
  assert.deepEqual(record?.synced, { nodes: true, endpoints: true, identities: true, services: true });
  assert.deepEqual([record?.numNodes, record?.numEndpoints, record?.numIdentities], [1, 2, 1]);
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'all', 'cluster-a/frontend > my-vm': 'none' });
});

test('a file that changes moves the connection, and facts stay', async () => {
  const { door } = lab.cluster('cluster-b');
  const flow = await lab
    .cluster('cluster-b')
    .place('frontend')
    .flow(lab.machine.ipv4, 53, { fresh: true, everyMs: 20 });
  // A comment is a change as well: what is read again must lead to the same.
  const connected = (await lab.agent.status()).clusters.find(({ name }) => name === 'cluster-b')?.store.since ?? 0;
  lab.agent.cluster('cluster-b', `# renewed\n${lab.cluster('cluster-b').etcdConfig('remote')}`);
  await lab.agent.untilStatus('the connection is a new one', (now) => {
    const cluster = clusterOf(now, 'cluster-b');
    return cluster?.ready === true && cluster.store.since > connected;
  });
  await until('one connection is left', () => door.connections === 1);
  const { sent, received } = await flow.stop();
  assert.equal(received, sent);
});

test('a file that turns bad keeps its cluster, and health names file and key', async () => {
  lab.agent.cluster('cluster-b', 'endpoints: not a list\n');
  const record = await lab.agent.untilHealth('MSH-CLUSTER-FILE', 'cluster/cluster-b');
  assert.match(record.place ?? '', /clustermesh\/cluster-b/);
  assert.match(record.text, /endpoints/);
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'all' });
  lab.connect('cluster-b');
  await lab.agent.untilStatus('health is fine again', ({ health }) => health.every(({ code }) => code !== record.code));
});

test('values that break the rules are shown with their reason, and the rest works', async () => {
  const { facts } = lab.cluster('cluster-b');
  const bad = {
    'cilium/state/identities/v1/id/70000': 'k8s:app=frontend;k8s:io.cilium.k8s.policy.cluster=cluster-b;',
    'cilium/state/identities/v1/id/131100': 'k8s:app=frontend;k8s:io.cilium.k8s.policy.cluster=cluster-a;',
    'cilium/state/ip/v1/default/FD00::1': '{"IP":"fd00::1","Mask":null,"HostIP":"","ID":131100,"Key":0,"Metadata":""}',
    'cilium/state/ip/v1/default/10.245.9.9':
      '{"IP":"10.245.9.9","Mask":null,"HostIP":"","ID":66536,"Key":0,"Metadata":""}',
    'cilium/state/ip/v1/default/10.245.9.10': '{"IP":',
    'cilium/state/nodes/v1/cluster-b/node-9': '{"Name":"node-8","Cluster":"cluster-b","ClusterID":2}',
    'cilium/state/services/v1/cluster-b/default/db':
      '{"cluster":"cluster-a","namespace":"default","name":"db","clusterID":2}',
  };
  for (const [key, value] of Object.entries(bad)) await facts.store.put(key, value);
  const status = await lab.agent.untilStatus(
    'all of them are in quarantine',
    ({ quarantine }) => quarantine.length === Object.keys(bad).length,
  );
  assert.deepEqual(status.quarantine.map(({ key }) => key).sort(), Object.keys(bad).sort());
  for (const { cluster, key, reason } of status.quarantine) assert.ok(cluster === 'cluster-b' && reason !== '', key);
  assert.equal(clusterOf(status, 'cluster-b')?.numQuarantined, Object.keys(bad).length);
  await lab.agent.untilHealth('MSH-QUARANTINE');
  // An address of a number that is not this cluster's must not get in by it.
  assert.ok((await identityAt('10.245.9.9')) < 256);
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'all' });
  for (const key of Object.keys(bad)) await facts.store.remove(key);
  await lab.agent.untilStatus('the quarantine is empty', ({ counts }) => counts.quarantined === 0);
});

test('a remote cluster cannot take addresses over: neither our own, nor nodes or pods of the cluster that we joined', async () => {
  const { facts } = lab.cluster('cluster-b');
  const identity = facts.firstIdentity + 1000;
  const node = lab.cluster('cluster-a').node.place.ipv4;
  const pod = lab.cluster('cluster-a').place('batch').ipv4;
  const taken = [lab.machine.ipv4, node, pod];
  const before = await Promise.all(taken.map(identityAt));
  assert.ok(before.every((each) => each !== identity));
  for (const ip of taken) await facts.address({ ip, identity, host: lab.cluster('cluster-b').node.place.ipv4 });
  const record = await lab.agent.untilHealth('MSH-CONTESTED');
  assert.match(record.text, /cluster-b/);
  assert.deepEqual(await Promise.all(taken.map(identityAt)), before);
  await assertReach(lab, { 'cluster-a/batch > my-vm': 'none', 'cluster-b/frontend > my-vm': 'all' });
  for (const ip of taken) await facts.unset('endpoints', ip);
  await lab.agent.untilStatus('nobody contests any more', ({ health }) =>
    health.every(({ code }) => code !== record.code),
  );
  assert.deepEqual(await Promise.all(taken.map(identityAt)), before);
});

test('a cluster in the cache of the joined store is followed there', async () => {
  await cached.pod({ name: 'c', namespace: 'production', labels: { app: 'frontend' }, addresses: ['10.246.1.5'] });
  await cached.publish();
  const status = await lab.agent.untilStatus(
    'cluster-c is ready',
    (now) => clusterOf(now, 'cluster-c')?.ready === true,
  );
  const record = clusterOf(status, 'cluster-c');
  assert.equal(record?.kind, 'cached');
  assert.equal(record?.config.kvstoremesh, true);
  assert.equal(await identityAt('10.246.1.5'), cached.firstIdentity + 1000);
});

test('facts of a kind are not believed before its canary, and status names the key that is missing', async () => {
  const { etcd, pki } = lab.cluster('cluster-a');
  const admin = { endpoints: etcd.endpoints, ...pki.client('root') };
  const filling = new StandInCluster({
    name: 'cluster-e',
    id: 5,
    layout: 'cached',
    etcd: admin,
    withhold: ['endpoints'],
  });
  await filling.pod({ name: 'e', namespace: 'production', labels: { app: 'frontend' }, addresses: ['10.248.1.5'] });
  await filling.publish();
  const status = await lab.agent.untilStatus('all but the addresses are known', (now) => {
    const synced = clusterOf(now, 'cluster-e')?.synced;
    return synced?.nodes === true && synced.identities && synced.services;
  });
  const record = clusterOf(status, 'cluster-e');
  assert.equal(record?.ready, false);
  assert.match(record?.reason ?? '', /cilium\/synced\/cluster-e\/cilium\/cache\/ip\/v1/);
  assert.ok((await identityAt('10.248.1.5')) < 256);
  await filling.release('endpoints');
  await lab.agent.untilStatus('cluster-e is ready', (now) => clusterOf(now, 'cluster-e')?.ready === true);
  assert.equal(await identityAt('10.248.1.5'), filling.firstIdentity + 1000);
  await filling.close();
});

test('services of a remote cluster are listed with their frontends and backends', async () => {
  const port = (number: number) => ({ http: { Protocol: 'TCP', Port: number } });
  await lab.cluster('cluster-b').facts.service({
    namespace: 'production',
    name: 'api',
    frontends: { '10.96.3.7': port(80) },
    backends: { '10.245.1.5': port(8080), 'fd00:245:1::5': port(8080) },
  });
  const services = async (): Promise<ServiceRecord[]> => {
    const found: ServiceRecord[] = [];
    for await (const service of lab.agent.api.services()) found.push(service);
    return found;
  };
  await until('the service is known', async () => (await services()).length === 1);
  const announced = (await services()).map(({ balanced: _, ...rest }) => rest);
  assert.deepEqual(announced, [
    {
      cluster: 'cluster-b',
      namespace: 'production',
      name: 'api',
      shared: true,
      global: true,
      frontends: ['10.96.3.7:80/TCP'],
      backends: ['10.245.1.5:8080/TCP', '[fd00:245:1::5]:8080/TCP'],
    },
  ]);
});

test('a cluster with the id of another is refused with the reason, and the first one is not touched', async () => {
  const { facts } = lab.cluster('cluster-b');
  await facts.store.put('cilium/cluster-config/cluster-d', '{"id":2,"capabilities":{"syncedCanaries":true}}');
  lab.agent.cluster('cluster-d', lab.cluster('cluster-b').etcdConfig('remote'));
  const status = await lab.agent.untilStatus('cluster-d is refused', (now) =>
    /already used by cluster-b/.test(clusterOf(now, 'cluster-d')?.reason ?? ''),
  );
  assert.equal(clusterOf(status, 'cluster-d')?.ready, false);
  assert.equal(clusterOf(status, 'cluster-b')?.ready, true);
  await lab.agent.untilHealth('MSH-CLUSTER-ID', 'cluster/cluster-d');
  await facts.store.put('cilium/cluster-config/cluster-d', '{"id":1,"capabilities":{"syncedCanaries":true}}');
  await lab.agent.untilStatus('the own id is refused too', (now) =>
    /assigned to the local cluster cluster-a/.test(clusterOf(now, 'cluster-d')?.reason ?? ''),
  );
  lab.agent.removeCluster('cluster-d');
  await lab.agent.untilStatus('cluster-d is gone', (now) => clusterOf(now, 'cluster-d') === undefined);
});

test('a file under a name that its store does not know says what it waits for', async () => {
  lab.agent.cluster('cluster-x', lab.cluster('cluster-b').etcdConfig('remote'));
  await lab.agent.untilStatus('cluster-x waits for its configuration', (now) =>
    /cilium\/cluster-config\/cluster-x/.test(clusterOf(now, 'cluster-x')?.reason ?? ''),
  );
  const { text, remedy } = await lab.agent.untilHealth('MSH-INCOMPLETE', 'cluster/cluster-x');
  assert.match(text, /cilium\/cluster-config\/cluster-x/);
  assert.match(remedy, /clustermesh-apiserver/);
  assert.equal((await lab.agent.status()).state, 'degraded');
  lab.agent.removeCluster('cluster-x');
  await lab.agent.untilStatus('nothing is said of it any more', ({ state }) => state === 'ok');
});

test('a file that goes takes its cluster along, at once', async () => {
  lab.agent.removeCluster('cluster-b');
  await lab.agent.untilStatus('cluster-b is gone', (now) => clusterOf(now, 'cluster-b') === undefined);
  assert.ok((await identityAt(lab.cluster('cluster-b').place('frontend').ipv4)) < 256);
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'none' });
});
