import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { BackendRecord, KernelServiceRecord, ServiceRecord } from '../../src/api/types.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import type { Outcome } from '../lab/place.ts';
import { CLUSTER_A, CLUSTER_B, enforce, policyFor, startStory } from '../lab/story.ts';

/**
 * One global service of three clusters, reached from the machine by the addresses of all of them (sections 2 and 7 of the
 * text that describes the mesh). Pods answer on TCP 80; each is a backend of its cluster.
 */
const CLUSTER_C = { name: 'cluster-c', id: 3, pods: { frontend: { app: 'frontend' } } };
const VIPS = { 'cluster-a': '10.96.0.10', 'cluster-b': '10.97.0.10', 'cluster-c': '10.98.0.10' } as const;
const NAMES = ['cluster-a', 'cluster-b', 'cluster-c'] as const;
const GRACE_S = 2;
const API = 'production/api-service';

const COUNT = `table inet seen {
  counter opened { }
  chain enter {
    type filter hook input priority 0;
    tcp dport 80 ct state new counter name opened
  }
}`;

let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B, CLUSTER_C], {
    config: {
      services: { lossGrace: `${GRACE_S}s`, affinity: { 'production/near': 'local', 'production/far': 'remote' } },
    },
  });
  for (const name of NAMES)
    for (const pod of lab.cluster(name).pods.values()) pod.namespace.feed(COUNT, 'nft', '-f', '-');
  for (const name of NAMES) await announce(name, 'api-service', VIPS[name]);
  await announce('cluster-a', 'near', '10.96.0.20');
  await announce('cluster-b', 'near', '10.97.0.20');
  await announce('cluster-a', 'far', '10.96.0.21');
  await announce('cluster-b', 'far', '10.97.0.21');
  await serving(API, ['cluster-a', 'cluster-a', 'cluster-b', 'cluster-c']);
});
after(() => lab?.close());

const port = (number: number): object => ({ http: { Protocol: 'TCP', Port: number } });

/** All pods of a cluster are backends. */
async function announce(
  cluster: string,
  name: string,
  vip: string,
  shape: { backends?: object; shared?: boolean } = {},
): Promise<void> {
  const pods = [...lab.cluster(cluster).pods.values()];
  const backends = shape.backends ?? Object.fromEntries(pods.map(({ ipv4 }) => [ipv4, port(80)]));
  const shared = shape.shared === undefined ? {} : { shared: shape.shared };
  await lab.cluster(cluster).facts.service({
    namespace: 'production',
    name,
    frontends: { [vip]: port(80) },
    backends,
    ...shared,
  } as Parameters<ReturnType<MeshLab['cluster']>['facts']['service']>[0]);
}

async function records(name = API): Promise<ServiceRecord[]> {
  const [namespace = '', short = ''] = name.split('/');
  const found: ServiceRecord[] = [];
  for await (const each of lab.agent.api.services({ namespace, name: short })) found.push(each);
  return found;
}

async function backends(name = API): Promise<readonly BackendRecord[]> {
  const [first] = await records(name);
  return first?.balanced?.backends ?? [];
}

async function kernel(): Promise<KernelServiceRecord[]> {
  const found: KernelServiceRecord[] = [];
  for await (const each of lab.agent.api.kernelServices()) found.push(each);
  return found;
}

/** Waits until these clusters serve, each as often as it has backends, and the kernel has it. */
async function serving(name: string, clusters: readonly string[]): Promise<void> {
  const wanted = [...clusters].sort().join();
  await until(
    `${name} is served by ${wanted}`,
    async () => {
      const all = await backends(name);
      const own = all.filter((each) => each.serving);
      const inKernel = (await kernel()).filter(({ service }) => service === name);
      const addresses = own
        .flatMap((each) => each.addresses)
        .sort()
        .join();
      const same = inKernel.every(
        (each) =>
          each.backends
            .map(({ address }) => address)
            .sort()
            .join() === addresses,
      );
      return (
        own
          .map(({ cluster }) => cluster)
          .sort()
          .join() === wanted &&
        inKernel.length > 0 &&
        same
      );
    },
    30_000,
  );
}

function forget(): void {
  for (const name of NAMES)
    for (const pod of lab.cluster(name).pods.values())
      pod.namespace.run('nft', 'reset', 'counters', 'table', 'inet', 'seen');
}

/** New connections that came to each pod since `forget`. */
function counts(): Record<string, number> {
  const found: Record<string, number> = {};
  for (const name of NAMES) {
    for (const [pod, { namespace }] of lab.cluster(name).pods) {
      const text = namespace.run('nft', 'list', 'counters', 'table', 'inet', 'seen');
      found[`${name}/${pod}`] = Number(/packets (\d+)/.exec(text)?.[1] ?? -1);
    }
  }
  return found;
}

async function connect(to: string, count: number): Promise<string> {
  const outcomes = new Set<Outcome>();
  for (let left = count; left > 0; left -= 20) {
    const some = Array.from({ length: Math.min(20, left) }, () =>
      lab.machine.probe({ protocol: 'tcp', to, port: 80, timeoutMs: 5000 }),
    );
    for (const outcome of await Promise.all(some)) outcomes.add(outcome);
  }
  return [...outcomes].join();
}

test('every address of a global service leads to the backends of all clusters, evenly', async () => {
  for (const vip of Object.values(VIPS)) {
    forget();
    assert.equal(await connect(vip, 200), 'pass');
    // 50 each is expected, with a deviation of 6.
    for (const [pod, count] of Object.entries(counts())) assert.ok(count >= 20 && count <= 80, `${pod}: ${count}`);
  }
});

test('people see it: service list, service get, status, and `bpf lb list | grep global`', async () => {
  const list = await lab.agent.run('service', 'list');
  assert.match(list.stdout, /10\.96\.0\.10:80\/TCP +ClusterIP +1 => 10\.244\.1\.5:80\/TCP \(active\)/);
  const one = await lab.agent.run('service', 'get', API);
  assert.match(one.stdout, /10\.246\.1\.5:80\/TCP +cluster-c +active +yes/);
  const lb = (await lab.agent.run('bpf', 'lb', 'list')).stdout.split('\n').filter((line) => line.includes('global'));
  assert.ok(
    lb.some((line) =>
      /^10\.97\.0\.10:80\/TCP \(\d\) +10\.246\.1\.5:80\/TCP .*production\/api-service global$/.test(line),
    ),
    lb.join('\n'),
  );
  const { counts: shown, services } = await lab.agent.status();
  assert.deepEqual([shown.globalServices, shown.services], [3, 7]);
  assert.equal(services?.backends.active, 4 + 2 + 1);
});

test('affinity local and remote choose the cluster, and fall back to the other when it has nothing', async () => {
  await serving('production/near', ['cluster-a', 'cluster-a']);
  await serving('production/far', ['cluster-b']);
  forget();
  assert.equal(await connect('10.97.0.20', 20), 'pass');
  assert.equal(await connect('10.96.0.21', 20), 'pass');
  const seen = counts();
  assert.deepEqual([seen['cluster-b/frontend'], seen['cluster-c/frontend']], [20, 0]);
  await announce('cluster-a', 'near', '10.96.0.20', { backends: {} });
  await serving('production/near', ['cluster-b']);
  assert.equal(await connect('10.96.0.20', 10), 'pass');
  await announce('cluster-a', 'near', '10.96.0.20');
  await serving('production/near', ['cluster-a', 'cluster-a']);
});

test('policy of the machine sees the pod behind the address', async () => {
  const toBatch = { toEndpoints: [{ matchLabels: { app: 'batch' } }] };
  await announce('cluster-a', 'batch', '10.96.0.30', {
    backends: { [lab.cluster('cluster-a').place('batch').ipv4]: port(80) },
  });
  await serving('production/batch', ['cluster-a']);
  await enforce(lab, policyFor('batch-only', { egress: [toBatch] }));
  assert.equal(await connect('10.96.0.30', 5), 'pass');
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.97.0.21', port: 80 }), 'blocked');
  lab.agent.removePolicy('policy.yaml');
  await until('the policy is gone', async () => (await lab.agent.status()).policy.egress === 'Disabled');
  await lab.cluster('cluster-a').facts.unset('services', 'production/batch');
});

test('what is taken, contested or foreign is refused, and everybody can see why', async () => {
  const { facts } = lab.cluster('cluster-b');
  const pod = lab.cluster('cluster-a').place('frontend').ipv4;
  const evil = { [lab.cluster('cluster-b').place('frontend').ipv4]: port(80) };
  // The address of a service, of a pod, of the machine, of a store, of somebody in the world.
  const taken = [
    VIPS['cluster-a'],
    pod,
    lab.machine.ipv4,
    lab.cluster('cluster-a').node.place.ipv4,
    lab.topology.world.ipv4,
  ];
  await facts.service({
    namespace: 'evil',
    name: 'taker',
    frontends: Object.fromEntries(taken.map((address) => [address, { http: { Protocol: 'TCP', Port: 80 } }])),
    backends: {
      ...evil,
      '203.0.113.10': { http: { Protocol: 'TCP', Port: 80 } },
      [pod]: { http: { Protocol: 'TCP', Port: 80 } },
    },
  } as Parameters<typeof facts.service>[0]);
  await lab.agent.untilHealth('MSH-SERVICE', 'services');
  const [record] = await records('evil/taker');
  const reasons = Object.fromEntries(
    record?.balanced?.refused.map(({ frontend, reason }) => [frontend.replace(':80/TCP', ''), reason]) ?? [],
  );
  assert.deepEqual(Object.keys(reasons).sort(), [...taken].sort());
  assert.match(reasons[VIPS['cluster-a']] ?? '', /is a frontend of production\/api-service of cluster-a/);
  assert.match(reasons[pod] ?? '', /is an address of cluster-a/);
  assert.match(reasons[lab.machine.ipv4] ?? '', /is an address of this machine/);
  assert.match(reasons[lab.topology.world.ipv4] ?? '', /no private address/);
  const states = Object.fromEntries(
    (await backends('evil/taker')).map(({ addresses, state }) => [addresses[0], state]),
  );
  assert.deepEqual([states['203.0.113.10:80/TCP'], states[`${pod}:80/TCP`]], ['refused', 'refused']);
  forget();
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: pod, port: 80 }), 'pass');
  assert.equal(counts()['cluster-b/frontend'], 0);
  await facts.unset('services', 'evil/taker');
  await lab.agent.untilStatus('health is fine again', ({ health }) =>
    health.every(({ code }) => code !== 'MSH-SERVICE'),
  );
});

test('a service without a backend refuses at once', async () => {
  await announce('cluster-a', 'empty', '10.96.0.40', { backends: {} });
  await until('the kernel has it', async () =>
    (await kernel()).some(({ frontend }) => frontend === '10.96.0.40:80/TCP'),
  );
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.96.0.40', port: 80, timeoutMs: 4000 }), 'refused');
});

test('a cluster that dies under load: no new connection fails after the grace, running ones last, and all comes back', async () => {
  const home = lab.cluster('cluster-c');
  await announce('cluster-c', 'lone', '10.98.0.50');
  await serving('production/lone', ['cluster-c']);
  const running = await lab.machine.open('10.98.0.50', 80);
  const seen: { readonly at: number; readonly outcome: Outcome }[] = [];
  let done = false;
  const load = Array.from({ length: 3 }, async () => {
    while (!done) {
      const at = performance.now();
      seen.push({
        at,
        outcome: await lab.machine.probe({ protocol: 'tcp', to: VIPS['cluster-a'], port: 80, timeoutMs: 1500 }),
      });
    }
  });
  home.node.place.namespace.run('ip', 'link', 'set', 'eth0', 'down');
  await home.door.shut();
  await serving(API, ['cluster-a', 'cluster-a', 'cluster-b']);
  const left = performance.now();
  const lost = (await backends()).find(({ cluster }) => cluster === 'cluster-c');
  assert.deepEqual([lost?.state, lost?.serving, lost?.reason], ['unreachable', false, 'cluster-c is lost']);
  assert.ok(Date.now() - (lost?.since ?? 0) < 60_000);
  await lab.agent.untilHealth('MSH-SERVICE-LOST', 'services');
  const [last] = await backends('production/lone');
  assert.deepEqual([last?.state, last?.serving], ['unreachable', true], 'nothing else is left');
  for (const vip of Object.values(VIPS)) assert.equal(await connect(vip, 40), 'pass');
  const fresh = () => seen.filter(({ at }) => at >= left);
  await until('the load went on', () => fresh().length >= 50);
  done = true;
  await Promise.all(load);
  assert.deepEqual([...new Set(fresh().map(({ outcome }) => outcome))], ['pass']);
  assert.ok(
    seen.some(({ outcome }) => outcome !== 'pass'),
    'before the grace was over some went to the dead cluster',
  );
  // While it is away the cluster changes.
  await home.facts.unset('services', 'production/lone');
  home.node.place.namespace.run('ip', 'link', 'set', 'eth0', 'up');
  home.node.place.namespace.run('ip', 'route', 'add', 'default', 'via', '192.168.100.1');
  await home.door.open();
  await serving(API, ['cluster-a', 'cluster-a', 'cluster-b', 'cluster-c']);
  await until('what is gone is gone', async () => (await records('production/lone')).length === 0);
  await lab.agent.untilStatus('health is fine again', ({ health }) =>
    health.every(({ code }) => code !== 'MSH-SERVICE-LOST'),
  );
  assert.equal(await running.check(3000), 'pass', 'the connection outlived its cluster, its service and the return');
  await running.close();
  assert.equal(await connect(VIPS['cluster-c'], 20), 'pass');
});

test('services go on without the agent, and with one that starts while no store answers', async () => {
  await lab.agent.kill();
  assert.equal(await connect(VIPS['cluster-b'], 20), 'pass');
  for (const name of NAMES) await lab.cluster(name).door.shut();
  lab.agent.start();
  await lab.agent.untilStatus('no store answers', ({ kvstore }) => kvstore.state === 'failed');
  assert.equal(await connect(VIPS['cluster-b'], 20), 'pass');
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.96.0.40', port: 80 }), 'refused');
  for (const name of NAMES) await lab.cluster(name).door.open();
  await lab.agent.untilReady();
  await serving(API, ['cluster-a', 'cluster-a', 'cluster-b', 'cluster-c']);
  assert.equal(await connect(VIPS['cluster-b'], 20), 'pass');
});
