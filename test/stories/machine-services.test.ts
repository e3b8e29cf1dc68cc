import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { DrainRecord } from '../../src/api/types.ts';
import type { HubServiceChanged, HubServiceRecord } from '../../src/hub/services/records.ts';
import type { Agent } from '../lab/agent.ts';
import { Fleet } from '../lab/hub-fleet.ts';
import { until } from '../lab/namespace.ts';
import type { Connection, Outcome, Place } from '../lab/place.ts';
import { CLUSTER_A } from '../lab/story.ts';
import type { DualAddress } from '../lab/topology.ts';

/** A service on two machines, shared with a cluster, reached by a third machine: at the hub's address, and at the cluster's. */
const KEY = 'production/api';
const PORT = 8080;
const CLUSTER_IP = '10.96.0.60';
const BACKENDS = ['vm-1', 'vm-2'] as const;
const COUNT = `table inet seen {
  counter opened { }
  chain enter {
    type filter hook input priority 0;
    iifname != "lo" tcp dport ${PORT} ct state new counter name opened
  }
}`;
/** Others still get through: only the machine's own look at its port fails. */
const BROKEN = `table inet broken {
  chain enter {
    type filter hook input priority 0;
    iifname "lo" tcp dport ${PORT} reject with tcp reset
  }
}`;

const SPEC = [
  ...['--namespace', 'production', '--port', 'http=80:8080/tcp', '--selector', 'app=backend', '--global'],
  ...['--check', 'tcp', '--check-interval', '1s', '--check-timeout', '1s', '--check-fall', '2', '--address', 'auto'],
];

let fleet: Fleet;
let address: string;

before(async () => {
  fleet = new Fleet();
  await fleet.hub.init('--service-pool', '10.193.0.0/24');
  fleet.hub.start();
  await Promise.all([fleet.hub.untilLeading(), fleet.add(CLUSTER_A)]);
  await fleet.connect('cluster-a');
  for (const name of BACKENDS) await fleet.create(name);
  await fleet.create('client', '--label', 'app=client', '--namespace', 'production');
  for (const name of [...BACKENDS, 'client']) fleet.machineFor(name);
  await Promise.all([...BACKENDS, 'client'].map((name) => fleet.join(name)));
  for (const name of BACKENDS) {
    placeOf(name).namespace.feed(COUNT, 'nft', '-f', '-');
    await placeOf(name).listen({ tcp: [PORT] });
  }
});
after(() => fleet?.close());

const agentOf = (name: string): Agent => fleet.agentOf(name);
function placeOf(name: string): Place & DualAddress {
  const place = fleet.topology.machines.find(({ label }) => label === name);
  if (place === undefined) throw new Error(`there is no machine ${name}`);
  return place;
}
const service = (): Promise<HubServiceRecord> => fleet.hub.ask(`/v1/services/${KEY}`);
const opened = (name: string): number =>
  Number(/packets (\d+)/.exec(placeOf(name).namespace.run('nft', 'list', 'counters', 'table', 'inet', 'seen'))?.[1]);

/** What the hub says of each machine, by IPv4. */
async function states(): Promise<Record<string, string>> {
  const { backends } = await service();
  return Object.fromEntries(
    backends.filter((each) => each.address?.includes('.') !== false).map(({ workload, state }) => [workload, state]),
  );
}

/** The backends that the client's kernel leads connections to this address to; undefined where it has no frontend. */
async function ledBy(frontendAddress: string): Promise<string | undefined> {
  for await (const { frontend, backends } of agentOf('client').api.kernelServices())
    if (frontend === `${frontendAddress}:80/TCP`) return textOf(backends.map((each) => each.address));
  return undefined;
}

const textOf = (backends: readonly string[]): string => [...backends].sort().join();
const machine = (name: string): string => `${placeOf(name).ipv4}:${PORT}/TCP`;

/** Waits until the client leads connections to these machines, and no others. */
function ledTo(...names: string[]): Promise<void> {
  const wanted = textOf(names.map(machine));
  const what = `the client leads to ${names.join(', ') || 'nobody'}`;
  return until(what, async () => (await ledBy(address)) === wanted, 30_000);
}

async function connect(to: string, count: number): Promise<string> {
  const outcomes = new Set<Outcome>();
  for (let left = count; left > 0; left -= 20) {
    const some = Array.from({ length: Math.min(20, left) }, () =>
      placeOf('client').probe({ protocol: 'tcp', to, port: 80, timeoutMs: 5000 }),
    );
    for (const outcome of await Promise.all(some)) outcomes.add(outcome);
  }
  return [...outcomes].join();
}

/** New connections without a pause, until told to stop; what became of them. */
function load(to: string): () => Promise<{ count: number; outcomes: string }> {
  let stopped = false;
  let count = 0;
  const outcomes = new Set<string>();
  const running = (async () => {
    while (!stopped) {
      outcomes.add(await connect(to, 10));
      count += 10;
    }
  })();
  return async () => {
    stopped = true;
    await running;
    return { count, outcomes: [...outcomes].join() };
  };
}

test('created at the hub: machines with the labels serve, at an address of the hub, and new connections are spread', async () => {
  const made = await fleet.hub.json<HubServiceChanged>('service', 'create', 'api', ...SPEC);
  [address = ''] = made.service.addresses;
  assert.equal(address, '10.193.0.1');
  await until('both are active', async () => Object.values(await states()).join() === 'active,active', 20_000);
  await ledTo(...BACKENDS);
  assert.equal(await connect(address, 200), 'pass');
  for (const name of BACKENDS) assert.ok(opened(name) > 60 && opened(name) < 140, `${name}: ${opened(name)}`);
  const { serving } = await agentOf('vm-1').status();
  assert.deepEqual(
    serving?.services.map(({ service: name, state }) => [name, state]),
    [[KEY, 'healthy']],
  );
  assert.equal((await agentOf('client').status()).serving, undefined);
});

test('it is one service with that of the cluster: its address leads to pods and machines', async () => {
  const port = { http: { Protocol: 'TCP', Port: 80 } };
  const { facts } = fleet.cluster('cluster-a');
  const pod = fleet.cluster('cluster-a').place('frontend').ipv4;
  await facts.service({
    namespace: 'production',
    name: 'api',
    frontends: { [CLUSTER_IP]: port },
    backends: { [pod]: port },
  } as Parameters<typeof facts.service>[0]);
  const all = textOf([`${pod}:80/TCP`, ...BACKENDS.map(machine)]);
  await until('the address of the cluster leads to all', async () => (await ledBy(CLUSTER_IP)) === all);
  await fleet.hub.must('service', 'create', 'api', ...SPEC, '--affinity', 'local', '--replace');
  const near = textOf(BACKENDS.map(machine));
  await until('machines prefer machines, as the hub says', async () => (await ledBy(CLUSTER_IP)) === near);
  await facts.unset('services', KEY);
  await ledTo(...BACKENDS);
});

test('a machine that fails its own check leaves, with the reason, and comes back; nobody notices', async () => {
  const stop = load(address);
  placeOf('vm-1').namespace.feed(BROKEN, 'nft', '-f', '-');
  await until('it is unhealthy', async () => (await states())['vm-1'] === 'unhealthy', 20_000);
  const row = (await service()).backends.find(({ workload }) => workload === 'vm-1');
  assert.equal(row?.reason, 'tcp/8080: connection refused');
  await agentOf('vm-1').untilHealth('AGT-SERVING', 'serving');
  await ledTo('vm-2');
  const before_ = opened('vm-1');
  assert.equal(await connect(address, 40), 'pass');
  assert.equal(opened('vm-1'), before_);
  placeOf('vm-1').namespace.run('nft', 'delete', 'table', 'inet', 'broken');
  await until('it is active again', async () => (await states())['vm-1'] === 'active', 20_000);
  await ledTo(...BACKENDS);
  const { count, outcomes } = await stop();
  assert.equal(outcomes, 'pass', `of ${count}`);
});

test('drained under load: no new connection fails, none that runs is cut, and what is left is shown', async () => {
  const client = placeOf('client');
  const open = await Promise.all(Array.from({ length: 12 }, () => client.open(address, 80)));
  const here = await agentOf('vm-1').json<DrainRecord>('drain', '--undo');
  const count = here.connections?.[0]?.count ?? 0;
  assert.ok(count > 0 && count < 12, JSON.stringify(here));
  assert.deepEqual([here.published, here.draining], [[KEY], false]);
  const stop = load(address);
  const late = await agentOf('vm-1').run('drain', '--wait', '--timeout', '8s');
  assert.equal(late.code, 4, late.stdout + late.stderr);
  assert.match(late.stderr, new RegExp(`waiting \\(\\d+s\\): ${count} connections? \\(tcp/8080: ${count}\\)`));
  assert.match(late.stdout, /drained: out of production\/api\. Left: .* The time is over\./);
  assert.equal((await states())['vm-1'], 'draining');
  assert.match(await fleet.hub.must('workload', 'list'), /vm-1 +registered, draining/);
  await ledTo('vm-2');
  const { outcomes } = await stop();
  assert.equal(outcomes, 'pass');
  assert.deepEqual(await everyOne(open), ['pass']);

  // It stays so over a restart, during which nothing breaks either.
  await agentOf('vm-1').stop();
  assert.deepEqual(await everyOne(open), ['pass']);
  agentOf('vm-1').start();
  const { serving } = await agentOf('vm-1').untilReady(60_000);
  assert.ok((serving?.drained ?? 0) > 0);
  assert.match((await agentOf('vm-1').run('status')).stdout, /Serving: +production\/api; drained .* ago/);
  assert.equal((await states())['vm-1'], 'draining');
  assert.deepEqual(await everyOne(open), ['pass']);

  const waiting = agentOf('vm-1').run('drain', '--wait', '--timeout', '40s');
  await Promise.all(open.map((each) => each.close()));
  const done = await waiting;
  assert.equal(done.code, 0, done.stdout + done.stderr);
  await agentOf('vm-1').json('drain', '--undo');
  await ledTo(...BACKENDS);
});

test('a restart of the agent takes its machine out of nothing', async () => {
  const seen = new Set<string>();
  let over = false;
  const watching = (async () => {
    while (!over) seen.add((await states())['vm-1'] ?? 'gone');
  })();
  await agentOf('vm-1').stop();
  agentOf('vm-1').start();
  await agentOf('vm-1').untilReady(60_000);
  await agentOf('vm-1').untilStatus('it was checked', ({ serving }) => serving?.services[0]?.state === 'healthy');
  await new Promise((resolve) => setTimeout(resolve, 1500));
  over = true;
  await watching;
  assert.deepEqual([...seen], ['active']);
});

test('when nobody is left, connections are refused at once', async () => {
  for (const name of BACKENDS) await agentOf(name).json('drain');
  await ledTo();
  assert.equal(await placeOf('client').probe({ protocol: 'tcp', to: address, port: 80, timeoutMs: 5000 }), 'refused');
  const { health } = await fleet.hub.status();
  assert.match(health.find(({ code }) => code === 'HUB-SERVICE-IDLE')?.text ?? '', /production\/api: none of 2 serves/);
  for (const name of BACKENDS) await agentOf(name).json('drain', '--undo');
  await ledTo(...BACKENDS);
});

test('labels, deletion of the workload and of the service take machines out', async () => {
  await fleet.hub.must('workload', 'set', 'vm-2', '--label', 'app=other');
  await ledTo('vm-1');
  await fleet.hub.must('workload', 'set', 'vm-2', '--label', 'app=backend');
  await ledTo(...BACKENDS);
  await fleet.hub.must('workload', 'delete', 'vm-2');
  await ledTo('vm-1');
  assert.match(
    await fleet.hub.must('service', 'list'),
    /production\/api +http=80:8080\/tcp +10\.193\.0\.1 +global +vm-1/,
  );
  await fleet.hub.must('service', 'delete', KEY);
  await until('no frontend is left', async () => {
    for await (const { service: name } of agentOf('client').api.kernelServices()) if (name === KEY) return false;
    return true;
  });
  assert.equal((await agentOf('vm-1').status()).serving, undefined);
});

async function everyOne(connections: readonly Connection[]): Promise<string[]> {
  return [...new Set(await Promise.all(connections.map((each) => each.check(3000))))];
}
