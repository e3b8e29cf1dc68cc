import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { HTTP, ServiceLab } from '../lab/services.ts';
import { CLUSTER_A, CLUSTER_B, enforce, policyFor, startStory } from '../lab/story.ts';

/** The machine checks the backends of one service itself: three pods of two clusters. Nobody tells it that one is dead. */
const API = 'production/api';
const VIP = '10.96.0.10';
const ALL = ['cluster-a', 'cluster-a', 'cluster-b'] as const;

let lab: MeshLab;
let mesh: ServiceLab;

before(async () => {
  const check = { check: 'tcp', interval: '1s', timeout: '1s', rise: 2, fall: 2 };
  lab = await startStory([CLUSTER_A, CLUSTER_B], { config: { services: { checks: { [API]: check } } } });
  mesh = new ServiceLab(lab);
  await mesh.announce('cluster-a', 'api', VIP);
  await mesh.announce('cluster-b', 'api', '10.97.0.10');
  await mesh.announce('cluster-a', 'unchecked', '10.96.0.11');
  await mesh.serving(API, ALL);
});
after(() => lab?.close());

const frontend = (cluster: string) => lab.cluster(cluster).place('frontend');

async function reasonOf(cluster: string, address: string): Promise<string> {
  const found = (await mesh.backends(API)).find(
    (each) => each.cluster === cluster && each.addresses[0]?.startsWith(`${address}:`),
  );
  return `${found?.state}: ${found?.reason}`;
}

const healthy = () =>
  lab.agent.untilStatus('health is fine', ({ health }) => health.every(({ code }) => code !== 'MSH-SERVICE-CHECK'));

test('a backend that stops answering leaves under load, with its reason, keeps its connections, and comes back', async (t) => {
  const load = mesh.load(VIP);
  t.after(() => load.end());
  const dead = frontend('cluster-b');
  const running = await Promise.all(Array.from({ length: 6 }, () => lab.machine.open(VIP, 80)));
  mesh.stop(dead, 'silent');
  await mesh.serving(API, ['cluster-a', 'cluster-a']);
  const left = performance.now();
  assert.equal(await reasonOf('cluster-b', dead.ipv4), 'unhealthy: check failed: no connection within 1000 ms');
  assert.match((await lab.agent.run('service', 'get', API)).stdout, /10\.245\.1\.5:80\/TCP +cluster-b +unhealthy +no/);
  assert.match((await lab.agent.run('status')).stdout, /1 unhealthy/);
  await lab.agent.untilHealth('MSH-SERVICE-CHECK', 'services');
  await until('there were new connections', () => load.since(left).length > 40);
  for (const connection of running) assert.equal(await connection.check(3000), 'pass');
  mesh.resume(dead);
  await mesh.serving(API, ALL);
  await until('it has its share again', () => load.since(left).length > 80);
  await load.end();
  assert.deepEqual([...new Set(load.since(left))], ['pass'], 'neither without it nor on its return');
  assert.ok(
    load.since(0).some((outcome) => outcome !== 'pass'),
    'some went there before it was out',
  );
  await healthy();
  for (const connection of running) await connection.close();
});

test('when every backend fails all are used again', async () => {
  const pods = [...lab.clusters.values()].flatMap((cluster) => [...cluster.pods.values()]);
  for (const pod of pods) mesh.stop(pod);
  await until('all are unhealthy', async () => (await mesh.backends(API)).every(({ state }) => state === 'unhealthy'));
  await mesh.serving(API, ALL);
  assert.equal(await mesh.connect(VIP, 5), 'refused');
  assert.match(
    await reasonOf('cluster-b', frontend('cluster-b').ipv4),
    /connection refused, and nothing better is left/,
  );
  for (const pod of pods) mesh.resume(pod);
  await until('all are back', async () => (await mesh.backends(API)).every(({ state }) => state === 'active'));
  assert.equal(await mesh.connect(VIP, 20), 'pass');
});

test('what the egress policy of the machine denies is unhealthy, and the reason says that it is the policy', async () => {
  const allowed = { toEndpoints: [{ matchLabels: { app: 'batch' } }] };
  await enforce(lab, policyFor('batch-only', { egress: [allowed] }));
  await mesh.serving(API, ['cluster-a']);
  const reason = await reasonOf('cluster-b', frontend('cluster-b').ipv4);
  assert.match(reason, /^unhealthy: .*: the policy of this machine denies it$/);
  assert.equal(await mesh.connect(VIP, 10), 'pass', 'the one that may be reached takes all');
  lab.agent.removePolicy('policy.yaml');
  await mesh.serving(API, ALL);
});

test('a service that is not configured is not asked, and one whose checks end is used as its cluster says', async () => {
  const dead = frontend('cluster-a');
  mesh.stop(dead);
  await mesh.serving(API, ['cluster-a', 'cluster-b']);
  assert.deepEqual(
    (await mesh.backends('production/unchecked')).map(({ state }) => state),
    ['active', 'active'],
  );
  lab.agent.configure({ services: {} });
  assert.equal((await lab.agent.run('config', 'reload')).code, 0);
  await mesh.serving(API, ALL);
  await healthy();
  mesh.resume(dead);
});

test('a new backend that never answers is out after one check, long before it has failed so often as others may', async () => {
  const check = { check: 'http:8080/healthz', interval: '2s', timeout: '1s', rise: 100, fall: 100 };
  lab.agent.configure({ services: { checks: { default: check } } });
  assert.equal((await lab.agent.run('config', 'reload')).code, 0);
  await mesh.announce('cluster-b', 'fresh', '10.97.0.12', {
    backends: { [frontend('cluster-b').ipv4]: HTTP, [lab.cluster('cluster-b').node.place.ipv4]: HTTP },
  });
  await until('it was asked', async () =>
    (await mesh.backends('production/fresh')).some(({ state }) => state === 'unhealthy'),
  );
});
