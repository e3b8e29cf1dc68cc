import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Agent } from '../../src/agent/agent.ts';
import { Readiness } from '../../src/agent/readiness.ts';
import { refusalLog } from '../../src/agent/refusals.ts';
import { Troubles } from '../../src/agent/troubles.ts';
import { Health, type HealthChange } from '../../src/api/health.ts';
import { MeshError } from '../../src/core/errors.ts';
import type { StoreStatus } from '../../src/kvstore/store.ts';
import { silentLog } from '../../src/observe/log.ts';
import { claim, emptyTables } from './facts.ts';

const CONNECTED = {
  state: 'connected',
  hasQuorum: true,
  endpoints: ['https://192.0.2.5:2379'],
  lastFailure: undefined,
  troubles: [],
  summary: 'fine',
} as unknown as StoreStatus;
const AWAY = {
  ...CONNECTED,
  state: 'failed',
  hasQuorum: false,
  lastFailure: { at: 0, code: 'KVS-REFUSED', message: 'nothing listens' },
} as StoreStatus;

/** A store that answers, and refuses one path. */
const refusing = (subject: string): StoreStatus => ({
  ...CONNECTED,
  troubles: [{ subject, code: 'KVS-AUTH', message: 'permission denied', since: 0 }],
});

type Followed = ReturnType<Agent['mesh']['list']>[number];

function clusterOf(name: string, fields: object = {}, status: StoreStatus = CONNECTED): Followed {
  return { cluster: { name, kind: 'remote', synced: true, ...fields }, store: { status } } as unknown as Followed;
}

/** What the troubles look at, to be changed at will, and what they said. */
class Scene {
  readonly said: string[] = [];
  readonly health = new Health((record, change) => this.said.push(words(record.code, change)));
  readonly tables = emptyTables();
  readonly desired = { routes: { refused: [] as string[] } };
  readonly machine: { ipv4: object | undefined; ipv6: object | undefined } = { ipv4: {}, ipv6: undefined };
  readonly config = { datapath: 'nftables', services: { enabled: true } };
  readonly tallies: { name: string; backends: { active: number; unhealthy: number } }[] = [];
  readonly services = {
    model: { problems: new Map<string, string[]>(), tallies: () => this.tallies },
    lost: new Set<string>(),
    checks: { checked: 0, unchecked: 0, waiting: 0 },
  };
  store: { status: StoreStatus } | undefined = { status: CONNECTED };
  registration: object | undefined = { registered: {}, key: 'k', waitingFor: 'waits for an answer' };
  followed: Followed[] = [];
  policies: object[] = [];
  datapath: { status: object } = { status: {} };
  readonly reconciler = { opened: true };
  missing: string[] = [];
  readonly readiness = { missing: () => this.missing };
  readonly mesh = {
    list: () => this.followed,
    joined: undefined as object | undefined,
  };
  readonly repository = { list: () => this.policies };
  doubts = 0;
  readonly renewal = { doubt: () => this.doubts++ };
  looks = 0;
  readonly troubles = new Troubles(this as unknown as Agent, () => this.looks++);

  at(seconds: number): string[] {
    this.troubles.look(seconds * 1000);
    return this.health.list().map(({ code, subject, severity }) => `${subject} ${code} ${severity}`);
  }
}

const words = (code: string, change: HealthChange): string => `${change} ${code}`;

test('a machine that joins nothing says so for as long as it is so', () => {
  const scene = new Scene();
  scene.store = undefined;
  scene.registration = undefined;
  for (const at of [0, 1, 100]) assert.deepEqual(scene.at(at), ['kvstore AGT-KVSTORE error']);
  assert.deepEqual(scene.said, ['begun AGT-KVSTORE']);
});

test('every condition is told once and is over once', () => {
  const scene = new Scene();
  const conditions: readonly [set: () => void, unset: () => void, expected: string][] = [
    [
      () => (scene.registration = { key: 'k', refusal: new MeshError('MSH-REFUSED', 'wrong cluster') }),
      () => (scene.registration = { registered: {}, key: 'k' }),
      'registration MSH-REFUSED error',
    ],
    [() => (scene.machine.ipv4 = undefined), () => (scene.machine.ipv4 = {}), 'registration AGT-ADDRESS error'],
    [
      () => scene.tables.quarantine.refuse('b', 'key', 'no JSON'),
      () => scene.tables.quarantine.clear('b', 'key'),
      'facts MSH-QUARANTINE warning',
    ],
    [
      () => scene.desired.routes.refused.push('0.0.0.0/0 of b/evil: wider than /8'),
      () => scene.desired.routes.refused.pop(),
      'overlay AGT-ROUTE warning',
    ],
    [
      () => (scene.policies = [{ name: 'p', state: 'invalid', messages: ['line 3'], source: 'directory:p.yaml' }]),
      () => (scene.policies = [{ name: 'p', state: 'in-force', messages: [] }]),
      'policies AGT-POLICY error',
    ],
    [
      () => (scene.datapath = { status: { error: { code: 'DPN-FULL', message: 'full', since: 0 } } }),
      () => (scene.datapath = { status: {} }),
      'datapath/apply DPN-FULL error',
    ],
    [
      () => (scene.datapath = { status: { overlay: { error: { code: 'OVL-PORT', message: 'taken', since: 0 } } } }),
      () => (scene.datapath = { status: {} }),
      'overlay/apply OVL-PORT error',
    ],
    [
      () => (scene.config.datapath = 'none'),
      () => (scene.config.datapath = 'nftables'),
      'datapath AGT-UNENFORCED warning',
    ],
    [() => (scene.store = { status: AWAY }), () => (scene.store = { status: CONNECTED }), 'kvstore KVS-REFUSED error'],
    [
      () => (scene.followed = [clusterOf('b', {}, AWAY)]),
      () => (scene.followed = [clusterOf('b')]),
      'cluster/b KVS-REFUSED error',
    ],
    [
      () => (scene.followed = [clusterOf('b', { problem: { code: 'MSH-CLUSTER-ID', message: 'taken' } })]),
      () => (scene.followed = []),
      'cluster/b MSH-CLUSTER-ID error',
    ],
  ];
  let at = 0;
  assert.deepEqual(scene.at(at), []);
  for (const [set, unset, expected] of conditions) {
    scene.said.length = 0;
    set();
    for (let i = 0; i < 5; i++) assert.deepEqual(scene.at(++at), [expected]);
    unset();
    for (let i = 0; i < 5; i++) assert.deepEqual(scene.at(++at), [], `${expected} is not over`);
    const code = expected.split(' ')[1] ?? '';
    assert.deepEqual(scene.said, [`begun ${code}`, `over ${code}`]);
  }
});

test('addresses that several clusters claim are told with who has them, looked for now and then', () => {
  const scene = new Scene();
  scene.at(0);
  claim(scene.tables, '10.1.0.1', { id: 66_000, cluster: 'a', source: 'kvstore' });
  claim(scene.tables, '10.1.0.1', { id: 130_000, cluster: 'b', source: 'clustermesh' });
  assert.deepEqual(scene.at(1), [], 'the table is not walked through at every look');
  assert.deepEqual(scene.at(5), ['facts MSH-CONTESTED warning']);
  assert.match(scene.health.list()[0]?.text ?? '', /10\.1\.0\.1\/32 \(in force: a; also: b\)/);
});

test('a store that refuses facts or the registration is a trouble, and the certificate is doubted; optional ones are none', () => {
  const scene = new Scene();
  scene.followed = [clusterOf('vms', { kind: 'joined' })];
  scene.mesh.joined = {};
  const refuse = (subject: string): string[] => {
    const status = refusing(subject);
    scene.store = { status };
    scene.followed = [clusterOf('vms', { kind: 'joined' }, status)];
    return scene.at(0);
  };
  assert.deepEqual(refuse('watch cilium/cluster-config/'), []);
  assert.deepEqual(refuse('watch mesh-agent/v1/policies/'), []);
  assert.equal(scene.doubts, 0);
  for (const subject of ['key cilium/state/noderegister/v1/my-vm', 'watch cilium/state/nodes/v1/vms/'])
    assert.deepEqual(refuse(subject), ['cluster/vms KVS-AUTH error'], subject);
  assert.equal(scene.doubts, 2);
});

test('an announcement is a trouble when nobody answers for a minute, by a clock that nobody sets', () => {
  const scene = new Scene();
  // The wall clock may have jumped by a year: `since` of the registration is not used.
  scene.registration = { key: 'k', unansweredSince: Date.now() - 1e10, waitingFor: 'waits for an answer' };
  assert.deepEqual(scene.at(0), []);
  assert.deepEqual(scene.at(59), []);
  assert.deepEqual(scene.at(61), ['registration MSH-REGISTRATION error']);
  assert.equal(scene.health.list()[0]?.text, 'waits for an answer');
  // The store goes away and comes back: nothing was answered, so nothing is over.
  scene.store = { status: AWAY };
  assert.deepEqual(scene.at(62).sort(), ['kvstore KVS-REFUSED error', 'registration MSH-REGISTRATION error']);
  scene.store = { status: CONNECTED };
  assert.deepEqual(scene.at(63), ['registration MSH-REGISTRATION error']);
  scene.registration = { key: 'k', registered: {} };
  assert.deepEqual(scene.at(64), []);
});

test('a machine that is registered and still not enforced says what it waits for', () => {
  const scene = new Scene();
  scene.reconciler.opened = false;
  scene.missing = ['listing the policies in the store', 'reading the files of remote clusters'];
  assert.deepEqual(scene.at(0), [], 'not at every start');
  assert.deepEqual(scene.at(6), ['agent AGT-WAITING warning']);
  assert.equal(scene.health.list()[0]?.text, scene.missing.join('; '));
  scene.reconciler.opened = true;
  assert.deepEqual(scene.at(7), []);
});

test('a connected store that is not complete is a trouble after ten seconds', () => {
  const scene = new Scene();
  scene.followed = [clusterOf('b', { waitingFor: 'listing nodes' })];
  assert.deepEqual(scene.at(0), []);
  assert.deepEqual(scene.at(9), []);
  assert.deepEqual(scene.at(11), ['cluster/b MSH-INCOMPLETE error']);
  scene.followed = [clusterOf('b')];
  assert.deepEqual(scene.at(12), []);
  scene.followed = [clusterOf('b', { waitingFor: 'listing nodes' })];
  assert.deepEqual(scene.at(13), [], 'it counts anew');
});

test('what a file is to blame for stays until its reader takes it back', () => {
  const scene = new Scene();
  scene.health.set('cluster/b', { code: 'MSH-CLUSTER-FILE', text: 'line 3' });
  scene.health.set('cluster/c', { code: 'CFG-FILE', text: 'too large' });
  assert.equal(scene.at(0).length, 2);
});

test('a thousand wake-ups a second are a few looks, and none after the end', async () => {
  const scene = new Scene();
  const end = performance.now() + 700;
  while (performance.now() < end) {
    scene.troubles.soon();
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(scene.looks >= 2 && scene.looks <= 4, `${scene.looks} looks`);
  scene.troubles.close();
  const { looks } = scene;
  scene.troubles.soon();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(scene.looks, looks);
});

test('looking takes a twentieth of the time at most, however many policies there are', async () => {
  const scene = new Scene();
  scene.repository.list = () => {
    const end = performance.now() + 30;
    while (performance.now() < end);
    return [];
  };
  scene.troubles.look();
  const { looks } = scene;
  scene.troubles.soon();
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.equal(scene.looks, looks, '30 ms of work are followed by 570 ms of rest');
  scene.troubles.close();
});

test('a store that refuses to stop sending garbage fills no log', () => {
  let at = 0;
  const lines: string[] = [];
  const refused = refusalLog({ ...silentLog, warn: (message) => lines.push(message) }, () => at);
  for (let i = 0; i < 10_000; i++) refused({ key: `${i}` });
  assert.equal(lines.length, 21);
  assert.match(lines.at(-1) ?? '', /mesh-agent status/);
  at = 61_000;
  refused({ key: 'later' });
  assert.equal(lines.length, 22);
});

function readinessOf(fields: {
  registration?: object;
  clusters?: Followed[];
  discovering?: boolean;
  read?: boolean;
  policies?: string;
}) {
  return new Readiness({
    registration: () => fields.registration as never,
    mesh: { discovering: fields.discovering ?? false, list: () => fields.clusters ?? [] } as never,
    policies: { waitingFor: fields.policies } as never,
    clustersRead: () => fields.read ?? true,
  });
}

test('enforcement waits for everything that it depends on, and says for what', () => {
  const registration = { registered: {} };
  assert.deepEqual(readinessOf({}).missing(0), ['no store to join is configured']);
  assert.deepEqual(readinessOf({ registration: { waitingFor: 'the store is away' } }).missing(0), [
    'the store is away',
  ]);
  const joined = clusterOf('a', { kind: 'joined', synced: false, waitingFor: 'listing nodes' });
  const all = readinessOf({
    registration,
    discovering: true,
    read: false,
    clusters: [joined],
    policies: 'reading the policies in /etc/mesh-agent/policies.d',
  });
  assert.deepEqual(all.missing(0), [
    'listing the clusters that the store caches',
    'reading the files of remote clusters',
    'cluster a: listing nodes',
    'reading the policies in /etc/mesh-agent/policies.d',
  ]);
  assert.deepEqual(readinessOf({ registration, clusters: [clusterOf('a', { kind: 'joined' })] }).missing(0), []);
});

test('a remote cluster that is away holds enforcement back for a minute from joining on, the joined one for ever', () => {
  const fields: Parameters<typeof readinessOf>[0] = {};
  const readiness = readinessOf(fields);
  assert.equal(readiness.missing(0).length, 1);
  fields.registration = { registered: {} };
  fields.clusters = [clusterOf('b', { synced: false }), clusterOf('c', { kind: 'cached', synced: false })];
  assert.deepEqual(readiness.missing(500_000), ['cluster b: listing', 'cluster c: listing']);
  assert.equal(readiness.missing(559_000).length, 2);
  assert.deepEqual(readiness.missing(561_000), []);
  fields.clusters = [clusterOf('a', { kind: 'joined', synced: false })];
  assert.deepEqual(readiness.missing(9e9), ['cluster a: listing']);
});

test('services that are not all in force, lost clusters and a kernel that cannot balance are told, and their end', () => {
  const scene = new Scene();
  scene.services.model.problems.set('default/web', ['cluster-b has no backend for port http/TCP']);
  scene.services.lost.add('cluster-b');
  scene.tallies.push({ name: 'default/web', backends: { active: 2, unhealthy: 1 } });
  scene.datapath = { status: { balances: false } };
  assert.deepEqual(
    scene
      .at(1)
      .filter((line) => line.startsWith('services'))
      .sort(),
    [
      'services DPN-OLD warning',
      'services MSH-SERVICE warning',
      'services MSH-SERVICE-CHECK warning',
      'services MSH-SERVICE-LOST warning',
    ],
  );
  const [problem] = scene.health.of('services').filter(({ code }) => code === 'MSH-SERVICE');
  assert.equal(problem?.text, 'default/web: cluster-b has no backend for port http/TCP');
  const [failing] = scene.health.of('services').filter(({ code }) => code === 'MSH-SERVICE-CHECK');
  assert.equal(failing?.text, 'default/web: 1 of 3 backends');
  scene.tallies.length = 0;
  scene.services.model.problems.clear();
  scene.services.lost.clear();
  scene.datapath = { status: { balances: true } };
  assert.deepEqual(
    scene.at(2).filter((line) => line.startsWith('services')),
    [],
  );
});
