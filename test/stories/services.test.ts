import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { FlowRecord } from '../../src/api/flow-types.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { HTTP, ServiceLab } from '../lab/services.ts';
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

let lab: MeshLab;
let mesh: ServiceLab;

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B, CLUSTER_C], {
    config: {
      services: { lossGrace: `${GRACE_S}s`, affinity: { 'production/near': 'local', 'production/far': 'remote' } },
    },
  });
  mesh = new ServiceLab(lab);
  for (const name of NAMES) await mesh.announce(name, 'api-service', VIPS[name]);
  await mesh.announce('cluster-a', 'near', '10.96.0.20');
  await mesh.announce('cluster-b', 'near', '10.97.0.20');
  await mesh.announce('cluster-a', 'far', '10.96.0.21');
  await mesh.announce('cluster-b', 'far', '10.97.0.21');
  await mesh.serving(API, ['cluster-a', 'cluster-a', 'cluster-b', 'cluster-c']);
});
after(() => lab?.close());

test('every address of a global service leads to the backends of all clusters, evenly', async () => {
  for (const vip of Object.values(VIPS)) {
    mesh.forget();
    assert.equal(await mesh.connect(vip, 200), 'pass');
    // 50 each is expected, with a deviation of 6.
    for (const [pod, count] of Object.entries(mesh.counts())) assert.ok(count >= 20 && count <= 80, `${pod}: ${count}`);
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
  await mesh.serving('production/near', ['cluster-a', 'cluster-a']);
  await mesh.serving('production/far', ['cluster-b']);
  mesh.forget();
  assert.equal(await mesh.connect('10.97.0.20', 20), 'pass');
  assert.equal(await mesh.connect('10.96.0.21', 20), 'pass');
  const seen = mesh.counts();
  assert.deepEqual([seen['cluster-b/frontend'], seen['cluster-c/frontend']], [20, 0]);
  await mesh.announce('cluster-a', 'near', '10.96.0.20', { backends: {} });
  await mesh.serving('production/near', ['cluster-b']);
  assert.equal(await mesh.connect('10.96.0.20', 10), 'pass');
  await mesh.announce('cluster-a', 'near', '10.96.0.20');
  await mesh.serving('production/near', ['cluster-a', 'cluster-a']);
});

test('policy of the machine sees the pod behind the address', async () => {
  const toBatch = { toEndpoints: [{ matchLabels: { app: 'batch' } }] };
  await mesh.announce('cluster-a', 'batch', '10.96.0.30', {
    backends: { [lab.cluster('cluster-a').place('batch').ipv4]: HTTP },
  });
  await mesh.serving('production/batch', ['cluster-a']);
  await enforce(lab, policyFor('batch-only', { egress: [toBatch] }));
  assert.equal(await mesh.connect('10.96.0.30', 5), 'pass');
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.97.0.21', port: 80 }), 'blocked');
  lab.agent.removePolicy('policy.yaml');
  await until('the policy is gone', async () => (await lab.agent.status()).policy.egress === 'Disabled');
  await lab.cluster('cluster-a').facts.unset('services', 'production/batch');
});

test('what is taken, contested or foreign is refused, and everybody can see why', async () => {
  const { facts } = lab.cluster('cluster-b');
  const pod = lab.cluster('cluster-a').place('frontend').ipv4;
  const evil = { [lab.cluster('cluster-b').place('frontend').ipv4]: HTTP };
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
    frontends: Object.fromEntries(taken.map((address) => [address, HTTP])),
    backends: {
      ...evil,
      '203.0.113.10': HTTP,
      [pod]: HTTP,
    },
  });
  await lab.agent.untilHealth('MSH-SERVICE', 'services');
  const [record] = await mesh.records('evil/taker');
  const reasons = Object.fromEntries(
    record?.balanced?.refused.map(({ frontend, reason }) => [frontend.replace(':80/TCP', ''), reason]) ?? [],
  );
  assert.deepEqual(Object.keys(reasons).sort(), [...taken].sort());
  assert.match(reasons[VIPS['cluster-a']] ?? '', /is a frontend of production\/api-service of cluster-a/);
  assert.match(reasons[pod] ?? '', /is an address of cluster-a/);
  assert.match(reasons[lab.machine.ipv4] ?? '', /is an address of this machine/);
  assert.match(reasons[lab.topology.world.ipv4] ?? '', /no private address/);
  const states = Object.fromEntries(
    (await mesh.backends('evil/taker')).map(({ addresses, state }) => [addresses[0], state]),
  );
  assert.deepEqual([states['203.0.113.10:80/TCP'], states[`${pod}:80/TCP`]], ['refused', 'refused']);
  mesh.forget();
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: pod, port: 80 }), 'pass');
  assert.equal(mesh.counts()['cluster-b/frontend'], 0);
  await facts.unset('services', 'evil/taker');
  await lab.agent.untilStatus('health is fine again', ({ health }) =>
    health.every(({ code }) => code !== 'MSH-SERVICE'),
  );
});

test('a service without a backend refuses at once', async () => {
  await mesh.announce('cluster-a', 'empty', '10.96.0.40', { backends: {} });
  await until('the kernel has it', async () =>
    (await mesh.kernel()).some(({ frontend }) => frontend === '10.96.0.40:80/TCP'),
  );
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.96.0.40', port: 80, timeoutMs: 4000 }), 'refused');
  // The refusal is a drop like any other to whoever looks.
  let shown: FlowRecord | undefined;
  await until('the monitor shows it', async () => {
    for await (const event of lab.agent.api.flows({ to: '10.96.0.40', verdict: 'dropped' }))
      if ('flow' in event) shown = event.flow;
    return shown !== undefined;
  });
  assert.deepEqual([shown?.dropReason?.number, shown?.direction, shown?.policy.reason], [158, 'egress', 'no-backend']);
  assert.deepEqual(shown?.explain.slice(0, 2), ['service', 'get']);
});

test('a cluster that dies under load: no new connection fails after the grace, running ones last, and all comes back', async (t) => {
  const home = lab.cluster('cluster-c');
  await mesh.announce('cluster-c', 'lone', '10.98.0.50');
  await mesh.serving('production/lone', ['cluster-c']);
  const running = await lab.machine.open('10.98.0.50', 80);
  const load = mesh.load(VIPS['cluster-a']);
  t.after(() => load.end());
  home.node.place.namespace.run('ip', 'link', 'set', 'eth0', 'down');
  await home.door.shut();
  await mesh.serving(API, ['cluster-a', 'cluster-a', 'cluster-b']);
  const left = performance.now();
  const lost = (await mesh.backends(API)).find(({ cluster }) => cluster === 'cluster-c');
  assert.deepEqual([lost?.state, lost?.serving, lost?.reason], ['unreachable', false, 'cluster-c is lost']);
  assert.ok(Date.now() - (lost?.since ?? 0) < 60_000);
  await lab.agent.untilHealth('MSH-SERVICE-LOST', 'services');
  const [last] = await mesh.backends('production/lone');
  assert.deepEqual([last?.state, last?.serving], ['unreachable', true], 'nothing else is left');
  for (const vip of Object.values(VIPS)) assert.equal(await mesh.connect(vip, 40), 'pass');
  await until('the load went on', () => load.since(left).length >= 50);
  await load.end();
  assert.deepEqual([...new Set(load.since(left))], ['pass']);
  assert.ok(
    load.since(0).some((outcome) => outcome !== 'pass'),
    'before the grace was over some went to the dead cluster',
  );
  // While it is away the cluster changes.
  await home.facts.unset('services', 'production/lone');
  home.node.place.namespace.run('ip', 'link', 'set', 'eth0', 'up');
  home.node.place.namespace.run('ip', 'route', 'add', 'default', 'via', '192.168.100.1');
  await home.door.open();
  await mesh.serving(API, ['cluster-a', 'cluster-a', 'cluster-b', 'cluster-c']);
  await until('what is gone is gone', async () => (await mesh.records('production/lone')).length === 0);
  await lab.agent.untilStatus('health is fine again', ({ health }) =>
    health.every(({ code }) => code !== 'MSH-SERVICE-LOST'),
  );
  assert.equal(await running.check(3000), 'pass', 'the connection outlived its cluster, its service and the return');
  await running.close();
  assert.equal(await mesh.connect(VIPS['cluster-c'], 20), 'pass');
});

test('services go on without the agent, and with one that starts while no store answers', async () => {
  await lab.agent.kill();
  assert.equal(await mesh.connect(VIPS['cluster-b'], 20), 'pass');
  for (const name of NAMES) await lab.cluster(name).door.shut();
  lab.agent.start();
  await lab.agent.untilStatus('no store answers', ({ kvstore }) => kvstore.state === 'failed');
  assert.equal(await mesh.connect(VIPS['cluster-b'], 20), 'pass');
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.96.0.40', port: 80 }), 'refused');
  for (const name of NAMES) await lab.cluster(name).door.open();
  await lab.agent.untilReady();
  await mesh.serving(API, ['cluster-a', 'cluster-a', 'cluster-b', 'cluster-c']);
  assert.equal(await mesh.connect(VIPS['cluster-b'], 20), 'pass');
});
