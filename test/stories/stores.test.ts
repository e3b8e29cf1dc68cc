import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { assertReach, type Expected } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/** Stores hang, vanish and come back; certificates expire. What was known stays in force, and its age is told. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'cluster-b/frontend > my-vm': 'none',
  'world > my-vm': 'none',
  'my-vm > cluster-b/frontend': 'all',
};

let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B]);
  await enforce(lab, CROSS_CLUSTER);
});
after(() => lab?.close());

test('a remote store that is gone leaves its facts in force, tells their age, and comes back without a gap', async () => {
  const { door, facts } = lab.cluster('cluster-b');
  const flow = await lab
    .cluster('cluster-a')
    .place('frontend')
    .flow(lab.machine.ipv4, 53, { fresh: true, everyMs: 20 });
  const began = Date.now();
  await door.shut();
  const away = await lab.agent.untilStatus(
    'cluster-b is away',
    ({ clusters, state }) =>
      state === 'degraded' && clusters.some(({ name, connected }) => name === 'cluster-b' && !connected),
  );
  const record = away.clusters.find(({ name }) => name === 'cluster-b');
  assert.equal(record?.ready, false);
  assert.equal(record?.numEndpoints, 2);
  assert.ok(record?.freshAt !== undefined && record.freshAt >= began - 1000 && record.freshAt <= Date.now());
  const problem = await lab.agent.untilHealth('KVS-REFUSED', 'cluster/cluster-b');
  assert.match(problem.remedy, /listen|runs|port/);
  assert.equal((await lab.agent.run('status', '--brief')).code, 4);
  await assertReach(lab, EXPECTED);
  // One pod leaves and one comes while nobody can see it.
  const pod = { namespace: 'production', labels: { app: 'frontend' } };
  await facts.removePod('frontend');
  await facts.pod({ ...pod, name: 'later', addresses: ['10.245.1.99'] });
  await door.open();
  await lab.agent.untilReady();
  const identityAt = async (address: string): Promise<number> => (await lab.agent.api.ipcacheGet(address)).identity;
  await until('the new pod is known', async () => (await identityAt('10.245.1.99')) === facts.firstIdentity + 1000);
  await until('the old pod is forgotten', async () => (await identityAt('10.245.1.5')) < 256);
  await facts.removePod('later');
  await lab.cluster('cluster-b').relabel('frontend', { app: 'frontend' });
  const { sent, received } = await flow.stop();
  assert.equal(received, sent);
});

test('the joined store hangs: it is noticed, the rules stay, and afterwards everything is as it was', async () => {
  const { door } = lab.cluster('cluster-a');
  door.hang();
  const status = await lab.agent.untilStatus(
    'the hung store is noticed',
    ({ kvstore }) => kvstore.state !== 'connected',
    30_000,
  );
  assert.equal(status.registration.state, 'registered');
  assert.equal(status.datapath.applied, true);
  await assertReach(lab, EXPECTED);
  door.resume();
  door.cut();
  await lab.agent.untilReady();
  await assertReach(lab, EXPECTED);
});

test('a remote store that lost its data is not believed before it is complete again', async () => {
  const cluster = lab.cluster('cluster-b');
  const { etcd, facts } = cluster;
  await facts.pod({ name: 'gone', namespace: 'production', labels: { app: 'frontend' }, addresses: ['10.245.1.98'] });
  const identityAt = async (address: string): Promise<number> => (await lab.agent.api.ipcacheGet(address)).identity;
  await until('the pod is known', async () => (await identityAt('10.245.1.98')) === facts.firstIdentity + 1000);
  facts.silence();
  await etcd.reset();
  const status = await lab.agent.untilStatus('the empty store is connected, and not believed', ({ clusters }) =>
    clusters.some(({ name, connected, reason }) => name === 'cluster-b' && connected && reason !== undefined),
  );
  const record = status.clusters.find(({ name }) => name === 'cluster-b');
  assert.equal(record?.ready, false);
  assert.match(record?.reason ?? '', /cilium\/(cluster-config|synced)\/cluster-b/);
  assert.equal(await identityAt('10.245.1.98'), facts.firstIdentity + 1000);
  assert.equal(await identityAt('10.245.1.5'), facts.firstIdentity + 1000);
  // Meanwhile a pod has gone: the new data set does not have it.
  await facts.vanish().catch(() => {});
  await facts.removePod('gone');
  await cluster.allowUsers();
  await facts.publish();
  await lab.agent.untilReady();
  await until('the pod is forgotten', async () => (await identityAt('10.245.1.98')) < 256);
  assert.equal(await identityAt('10.245.1.5'), facts.firstIdentity + 1000);
  await assertReach(lab, EXPECTED);
});

test('a restarted store with the same data is followed on', async () => {
  const { etcd, facts } = lab.cluster('cluster-a');
  await etcd.kill();
  await lab.agent.untilStatus('the store is away', ({ kvstore }) => kvstore.state !== 'connected');
  await etcd.restart();
  await lab.agent.untilReady();
  await facts.pod({ name: 'new', namespace: 'production', labels: { app: 'frontend' }, addresses: ['10.244.1.77'] });
  await until(
    'a fact of afterwards arrives',
    async () => (await lab.agent.api.ipcacheGet('10.244.1.77')).identity === 66_536,
  );
});

test('an expired certificate is named with its remedy, and a renewed one is taken up without a restart', async () => {
  const { pki, door } = lab.cluster('cluster-a');
  pki.replace(lab.credentials, pki.client('externalworkload', { valid: 'past' }));
  door.cut();
  const problem = await lab.agent.untilHealth('KVS-TLS-EXPIRED');
  assert.match(problem.remedy, /renew/);
  const { stdout, code } = await lab.agent.run('status');
  assert.equal(code, 4);
  assert.match(stdout, /KVS-TLS-EXPIRED/);
  assert.ok(stdout.includes(problem.remedy), stdout);
  await assertReach(lab, EXPECTED);
  pki.replace(lab.credentials, pki.client('externalworkload'));
  await lab.agent.untilReady();
  await lab.agent.untilStatus('nothing is said of it any more', ({ health }) =>
    health.every((record) => record.code !== 'KVS-TLS-EXPIRED'),
  );
});
