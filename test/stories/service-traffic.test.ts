import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { HTTP, ServiceLab } from '../lab/services.ts';
import { CLUSTER_A, CLUSTER_B, startStory } from '../lab/story.ts';

/**
 * What kinds of connections a global service of three clusters carries: UDP, IPv6, clients that stay with one backend, and
 * what becomes of them when a store is away or a backend goes. The third cluster writes endpoint slices, as Cilium 1.20 does.
 */
const CLUSTER_C = {
  name: 'cluster-c',
  id: 3,
  pods: { frontend: { app: 'frontend' }, batch: { app: 'batch' } },
  standIn: { slices: 'services-and-endpointslices' },
} as const;
const CLUSTER_D = {
  name: 'cluster-d',
  id: 4,
  pods: { frontend: { app: 'frontend' } },
  standIn: { slices: 'endpointslices-only' },
} as const;
const BOTH = { http: { Protocol: 'TCP', Port: 80 }, dns: { Protocol: 'UDP', Port: 53 } } as const;
const GRACE_S = 2;

let lab: MeshLab;
let mesh: ServiceLab;

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B, CLUSTER_C, CLUSTER_D], {
    config: {
      services: {
        lossGrace: `${GRACE_S}s`,
        sticky: ['production/sticky'],
        affinity: { 'production/near': 'local' },
      },
    },
  });
  mesh = new ServiceLab(lab);
});
after(() => lab?.close());

const pod = (cluster: string, name: string) => lab.cluster(cluster).place(name);

test('UDP and IPv6 go to the backends of all clusters, evenly, each to those of its family', async () => {
  const vips = { 'cluster-a': ['10.96.0.10', 'fd00:96::10'], 'cluster-b': ['10.97.0.10', 'fd00:97::10'] } as const;
  for (const [cluster, both] of Object.entries(vips)) await mesh.announce(cluster, 'both', both, { ports: BOTH });
  await mesh.serving('production/both', [...Array(4).fill('cluster-a'), ...Array(2).fill('cluster-b')]);
  for (const protocol of ['tcp', 'udp'] as const) {
    for (const vip of [...vips['cluster-a'], ...vips['cluster-b']]) {
      mesh.forget();
      assert.equal(await mesh.connect(vip, 90, protocol), 'pass', `${protocol} to ${vip}`);
      // 30 each is expected, with a deviation of 4.5.
      const { 'cluster-a/frontend': one, 'cluster-a/batch': two, 'cluster-b/frontend': three } = mesh.counts();
      for (const count of [one, two, three]) assert.ok((count ?? 0) >= 8, `${protocol} ${vip}: ${one} ${two} ${three}`);
    }
  }
});

test('a UDP flow whose backend leaves finds another, though it never ends', async () => {
  await mesh.announce('cluster-a', 'flow', '10.96.0.11', { ports: BOTH, backends: {} });
  await mesh.announce('cluster-b', 'flow', '10.97.0.11', { ports: BOTH });
  await mesh.serving('production/flow', ['cluster-b']);
  mesh.forget();
  const flow = await lab.machine.flow('10.96.0.11', 53, { everyMs: 20 });
  await until('it has its backend', () => mesh.counts()['cluster-b/frontend'] === 1);
  await mesh.announce('cluster-b', 'flow', '10.97.0.11', { ports: BOTH, backends: {} });
  await mesh.announce('cluster-a', 'flow', '10.96.0.11', { ports: BOTH });
  await mesh.serving('production/flow', ['cluster-a', 'cluster-a']);
  const moved = () => (mesh.counts()['cluster-a/frontend'] ?? 0) + (mesh.counts()['cluster-a/batch'] ?? 0);
  await until('it has another', () => moved() === 1);
  const { sent, received } = await flow.stop();
  assert.ok(received > 0 && received < sent + 1, `${received} of ${sent}`);
});

test('a client of a sticky service stays with one backend, finds another when that leaves, and comes back to it', async () => {
  await mesh.announce('cluster-a', 'sticky', '10.96.0.12');
  await mesh.announce('cluster-b', 'sticky', '10.97.0.12');
  await mesh.serving('production/sticky', ['cluster-a', 'cluster-a', 'cluster-b']);
  const chosen = async (): Promise<string> => {
    mesh.forget();
    for (const vip of ['10.96.0.12', '10.97.0.12']) assert.equal(await mesh.connect(vip, 20), 'pass');
    const all = Object.entries(mesh.counts()).filter(([, count]) => count > 0);
    assert.deepEqual(
      all.map(([, count]) => count),
      [40],
      JSON.stringify(all),
    );
    return all[0]?.[0] ?? '';
  };
  const first = await chosen();
  const [cluster = '', name = ''] = first.split('/');
  const others = [...lab.cluster(cluster).pods.values()].filter((each) => each !== pod(cluster, name));
  const vip = cluster === 'cluster-a' ? '10.96.0.12' : '10.97.0.12';
  await mesh.announce(cluster, 'sticky', vip, {
    backends: Object.fromEntries(others.map(({ ipv4 }) => [ipv4, HTTP])),
  });
  const gone = pod(cluster, name).ipv4;
  await until('it has left', async () =>
    (await mesh.kernel()).every(
      ({ service, backends }) =>
        service !== 'production/sticky' || backends.every(({ address }) => !address.startsWith(`${gone}:`)),
    ),
  );
  assert.notEqual(await chosen(), first);
  await mesh.announce(cluster, 'sticky', vip);
  await mesh.serving('production/sticky', ['cluster-a', 'cluster-a', 'cluster-b']);
  assert.equal(await chosen(), first);
});

test('a store that is away takes its backends out, and nobody notices who connects: neither then nor on the return', async (t) => {
  await mesh.announce('cluster-a', 'api', '10.96.0.13');
  await mesh.announce('cluster-b', 'api', '10.97.0.13');
  await mesh.announce('cluster-a', 'near', '10.96.0.14');
  await mesh.announce('cluster-b', 'near', '10.97.0.14');
  await mesh.serving('production/api', ['cluster-a', 'cluster-a', 'cluster-b']);
  await mesh.serving('production/near', ['cluster-a', 'cluster-a']);
  const near = async () => JSON.stringify((await mesh.kernel()).filter(({ service }) => service === 'production/near'));
  const before = await near();
  const load = mesh.load('10.97.0.13');
  t.after(() => load.end());
  await until('it is under load', () => load.since(0).length > 20);
  const { door } = lab.cluster('cluster-b');
  await door.shut();
  await mesh.serving('production/api', ['cluster-a', 'cluster-a']);
  const lost = (await mesh.backends('production/api')).find(({ cluster }) => cluster === 'cluster-b');
  assert.deepEqual([lost?.state, lost?.serving, lost?.reason], ['unreachable', false, 'cluster-b is lost']);
  const left = performance.now();
  mesh.forget();
  await until('it goes on', () => load.since(left).length > 50);
  assert.equal(mesh.counts()['cluster-b/frontend'], 0);
  assert.equal(await near(), before, 'affinity local feels nothing');
  assert.match((await lab.agent.run('status')).stdout, /\d unreachable; lost: cluster-b/);
  await door.open();
  await mesh.serving('production/api', ['cluster-a', 'cluster-a', 'cluster-b']);
  mesh.forget();
  await until('it has its share again', () => (mesh.counts()['cluster-b/frontend'] ?? 0) > 5);
  await load.end();
  assert.deepEqual([...new Set(load.since(0))], ['pass']);
});

/** One slice of `production/<service>` in a cluster, with these conditions by pod. */
function slice(cluster: string, service: string, conditions: Readonly<Record<string, object>>): Promise<void> {
  return lab.cluster(cluster).facts.slice({
    ...{ namespace: 'production', name: `${service}-1`, service, ports: [{ name: 'http', port: 80 }] },
    endpoints: Object.entries(conditions).map(([name, each]) => ({ addresses: [pod(cluster, name).ipv4], ...each })),
  });
}
const LEAVING = { ready: false, serving: true, terminating: true };

test('a backend that a slice calls terminating keeps its connections and gets no new ones, under load', async (t) => {
  await slice('cluster-c', 'rolling', { frontend: {}, batch: {} });
  await mesh.announce('cluster-c', 'rolling', '10.98.0.15');
  await mesh.serving('production/rolling', ['cluster-c', 'cluster-c']);
  const load = mesh.load('10.98.0.15');
  t.after(() => load.end());
  const running = await Promise.all(Array.from({ length: 8 }, () => lab.machine.open('10.98.0.15', 80)));
  await slice('cluster-c', 'rolling', { frontend: {}, batch: LEAVING });
  await mesh.serving('production/rolling', ['cluster-c']);
  mesh.forget();
  const began = performance.now();
  await until('there were new ones', () => load.since(began).length > 30);
  assert.equal(mesh.counts()['cluster-c/batch'], 0);
  const shown = (await lab.agent.run('service', 'get', 'production/rolling')).stdout;
  assert.match(shown, /terminating +no .*cluster-c says that it is going away/);
  for (const connection of running) assert.equal(await connection.check(3000), 'pass', 'it went on');
  // The last one that is there, though it goes away.
  await slice('cluster-c', 'rolling', { frontend: { ready: false }, batch: LEAVING });
  await until('the other takes over', async () =>
    (await mesh.backends('production/rolling')).some(({ state, serving }) => state === 'terminating' && serving),
  );
  await slice('cluster-c', 'rolling', { frontend: {} });
  await mesh.serving('production/rolling', ['cluster-c']);
  await load.end();
  assert.deepEqual([...new Set(load.since(0))], ['pass']);
  for (const connection of running) await connection.close();
});

test('a cluster that writes slices alone gives backends to what others announce', async () => {
  await slice('cluster-d', 'wide', { frontend: {} });
  await mesh.announce('cluster-a', 'wide', '10.96.0.16');
  await mesh.serving('production/wide', ['cluster-a', 'cluster-a', 'cluster-d']);
  mesh.forget();
  assert.equal(await mesh.connect('10.96.0.16', 60), 'pass');
  assert.ok((mesh.counts()['cluster-d/frontend'] ?? 0) > 5);
  const { clusters } = await lab.agent.status();
  const { config, synced, numServices, numEndpointSlices } =
    clusters.find(({ name }) => name === 'cluster-d') ?? assert.fail();
  assert.deepEqual(
    [config.endpointSlicesExportMode, synced.services, synced.endpointSlices, numServices, numEndpointSlices],
    ['endpointslices-only', true, true, 0, 1],
  );
});

test('a hundred thousand backends of one service: a share of them is used, it is told, and the agent answers all the time', async () => {
  const { facts } = lab.cluster('cluster-c');
  const identity = await facts.identityOf({ app: 'crowd' });
  await facts.address({ ip: '10.100.0.0/15', identity, host: lab.cluster('cluster-c').node.place.ipv4 });
  const address = (n: number): string => `10.${100 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}`;
  await mesh.announce('cluster-c', 'crowd', '10.98.0.17', { backends: {} });
  for (let part = 0; part < 100; part++) {
    await facts.slice({
      ...{ namespace: 'production', name: `crowd-${part}`, service: 'crowd', ports: [{ name: 'http', port: 80 }] },
      endpoints: Array.from({ length: 1000 }, (_, n) => ({ addresses: [address(part * 1000 + n)] })),
    });
  }
  const counted = async () => (await lab.agent.status()).services?.backends;
  await until('all of them are known', async () => ((await counted())?.standby ?? 0) >= 100_000 - 8192, 60_000);
  await lab.agent.untilHealth('MSH-SERVICE', 'services');
  const shown = (await lab.agent.run('service', 'get', 'production/crowd')).stdout;
  assert.match(shown, /problem: 100000 backends of cluster-c are more than 8192: this machine uses a share of them/);
  await until(
    'the kernel leads to the share',
    async () =>
      (await mesh.kernel()).some(
        ({ frontend, backends }) => frontend === '10.98.0.17:80/TCP' && backends.length === 8192,
      ),
    60_000,
  );
  // Others go on as if nothing was.
  assert.equal(await mesh.connect('10.96.0.16', 20), 'pass');
  for (let part = 0; part < 100; part++) await facts.unset('slices', `production/crowd-${part}`);
  await until('nothing is left', async () => ((await counted())?.standby ?? 0) < 100, 60_000);
  assert.equal(await mesh.connect('10.98.0.17', 2), 'refused');
});
