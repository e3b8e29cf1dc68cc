import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatAddress, parsePrefix } from '../../src/core/ip.ts';
import type { ServiceFact } from '../../src/service/facts.ts';
import { ServiceModel } from '../../src/service/model.ts';
import { MAX_TARGETS, type ServiceView } from '../../src/service/result.ts';
import { type CheckSettings, DEFAULT_SETTINGS, type ServiceSettings } from '../../src/service/settings.ts';
import { addressFacts, ports, service, targetTexts } from './build.ts';

const API = 'production/api-service';
const A = service('cluster-a', API, {
  frontends: { '10.96.0.10': 'http=TCP/80' },
  backends: { '10.244.1.5': 'http=TCP/8080', '10.244.1.6': 'http=TCP/8080' },
});
const B = service('cluster-b', API, {
  frontends: { '10.97.0.10': 'http=TCP/80' },
  backends: { '10.245.1.5': 'http=TCP/8080', '10.245.1.6': 'http=TCP/8080' },
});
const OF_A = ['10.244.1.5 8080 *1', '10.244.1.6 8080 *1'];
const OF_B = ['10.245.1.5 8080 *1', '10.245.1.6 8080 *1'];

class Machine {
  now = 1000;
  readonly taken = new Set<string>();
  readonly model = new ServiceModel(addressFacts(this.taken), () => this.now);

  constructor(services: readonly ServiceFact[] = [A, B], settings: Partial<ServiceSettings> = {}) {
    this.model.configure({ ...DEFAULT_SETTINGS, ...settings });
    this.model.setJoined('cluster-a');
    for (const fact of services) this.put(fact);
    this.model.settle();
  }

  put(fact: ServiceFact): void {
    this.model.setService(fact.cluster, `${fact.namespace}/${fact.name}`, fact);
  }

  lose(cluster: string, lost = true): void {
    this.model.setCluster(cluster, { lostSince: lost ? this.now : undefined });
    this.model.settle();
  }

  leads(key: string): string[] | undefined {
    this.model.settle();
    const frontend = this.model.frontends.get(key);
    return frontend === undefined ? undefined : targetTexts(frontend);
  }

  view(name = API): ServiceView {
    this.model.settle();
    const [view] = this.model.views(name);
    return view ?? assert.fail(`no service ${name}`);
  }

  states(name = API): Record<string, string> {
    return Object.fromEntries(
      this.view(name).backends.map(({ address, state, reason }) => [
        address,
        `${state}${reason === undefined ? '' : `: ${reason}`}`,
      ]),
    );
  }
}

const affinity = (value: 'local' | 'remote'): Partial<ServiceSettings> => ({ affinity: new Map([[API, value]]) });

test('every frontend of every cluster leads to the backends of all', () => {
  const machine = new Machine();
  for (const key of ['10.96.0.10 6 80', '10.97.0.10 6 80']) assert.deepEqual(machine.leads(key), [...OF_A, ...OF_B]);
  const { global, clusters } = machine.view();
  assert.deepEqual([global, clusters], [true, ['cluster-a', 'cluster-b']]);
});

test('affinity local uses the others only when no local backend is healthy, and remote is its mirror', () => {
  const local = new Machine([A, B], affinity('local'));
  assert.deepEqual(local.leads('10.97.0.10 6 80'), OF_A);
  assert.equal(local.states()['10.245.1.5'], 'standby: affinity local');
  local.put({ ...A, backends: new Map() });
  assert.deepEqual(local.leads('10.97.0.10 6 80'), OF_B);
  const remote = new Machine([A, B], affinity('remote'));
  assert.deepEqual(remote.leads('10.96.0.10 6 80'), OF_B);
  remote.lose('cluster-b');
  assert.deepEqual(remote.leads('10.96.0.10 6 80'), OF_A);
  remote.lose('cluster-b', false);
  assert.deepEqual(remote.leads('10.96.0.10 6 80'), OF_B);
});

test('a machine may count another cluster as the local one', () => {
  const machine = new Machine([A, B], { ...affinity('local'), local: 'cluster-b' });
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_B);
});

test('affinity has no meaning for a service that only one cluster has for itself', () => {
  const machine = new Machine([service('cluster-a', API, { ...shapeOf(A), global: false })], affinity('remote'));
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
});

function shapeOf(fact: ServiceFact): { frontends: Record<string, string>; backends: Record<string, string> } {
  const texts = (of: ServiceFact['frontends']): Record<string, string> =>
    Object.fromEntries(
      [...of].map(([ip, ports]) => [ip, ports.map((p) => `${p.name}=${p.protocol}/${p.port}`).join(' ')]),
    );
  return { frontends: texts(fact.frontends), backends: texts(fact.backends) };
}

test('what the joined cluster does not share is reachable for its machine, and what another does not is not', () => {
  const machine = new Machine([
    service('cluster-a', 'default/own', { ...shapeOf(A), global: false }),
    service('cluster-b', 'default/theirs', { ...shapeOf(B), global: false }),
  ]);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
  assert.equal(machine.leads('10.97.0.10 6 80'), undefined);
});

test('a service of the joined cluster that is not global is not mixed with what others share under its name', () => {
  const machine = new Machine([service('cluster-a', API, { ...shapeOf(A), global: false }), B]);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
  assert.deepEqual(machine.leads('10.97.0.10 6 80'), OF_B);
  assert.deepEqual(
    [...machine.model.views(API)].map(({ global }) => global),
    [false, true],
  );
});

test('a global service that the joined cluster keeps to itself still uses what others share', () => {
  const machine = new Machine([service('cluster-a', API, { ...shapeOf(A), shared: false }), B]);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), [...OF_A, ...OF_B]);
});

test('backends of a lost cluster leave, say why and since when, and come back', () => {
  const machine = new Machine();
  machine.now = 5000;
  machine.lose('cluster-b');
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
  const [, , lost] = machine.view().backends;
  assert.deepEqual(
    [lost?.address, lost?.state, lost?.serving, lost?.reason, lost?.since],
    ['10.245.1.5', 'unreachable', false, 'cluster-b is lost', 5000],
  );
  machine.now = 9000;
  machine.lose('cluster-b', false);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), [...OF_A, ...OF_B]);
  const since = machine.view().backends.map((backend) => backend.since);
  assert.deepEqual(since, [1000, 1000, 9000, 9000], 'backends that stayed tell their own time');
});

test('when nothing else is left, `keep` goes on with what is unreachable and `remove` refuses', () => {
  const keep = new Machine([B]);
  keep.lose('cluster-b');
  assert.deepEqual(keep.leads('10.97.0.10 6 80'), OF_B);
  assert.match(keep.states()['10.245.1.5'] ?? '', /^unreachable: .*nothing better/);
  const remove = new Machine([B], { onClusterLoss: 'remove' });
  remove.lose('cluster-b');
  assert.deepEqual(remove.leads('10.97.0.10 6 80'), [], 'there, and leading nowhere');
});

test('affinity local feels nothing of the loss of another cluster', () => {
  const machine = new Machine([A, B], affinity('local'));
  machine.model.drainChanges();
  machine.lose('cluster-b');
  assert.deepEqual([...machine.model.drainChanges()], []);
});

test('a frontend that is claimed by two services belongs to the joined cluster, with all its ports', () => {
  const hostile = service('aaa', 'kube-system/kube-dns', {
    frontends: { '10.96.0.10': 'http=TCP/80 dns=UDP/53' },
    backends: { '10.6.6.6': 'http=TCP/80 dns=UDP/53' },
  });
  const machine = new Machine([hostile, A]);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
  assert.equal(machine.leads('10.96.0.10 17 53'), undefined);
  const refused = machine.view('kube-system/kube-dns').frontends.map((frontend) => frontend.refused);
  assert.deepEqual(refused, Array(2).fill(`is a frontend of ${API} of cluster-a`));
  assert.match(machine.model.contested.examples[0] ?? '', /10\.96\.0\.10 \(in force: production\/api-service/);
  machine.model.setService('cluster-a', API, undefined);
  assert.deepEqual(machine.leads('10.96.0.10 17 53'), ['10.6.6.6 53 *1'], 'nobody else has it now');
});

test('ports of one name that differ between clusters are told, and a cluster without the port gets nothing', () => {
  const machine = new Machine([
    A,
    service('cluster-b', API, {
      frontends: { '10.97.0.10': 'http=TCP/8000 grpc=TCP/90' },
      backends: { '10.245.1.5': 'grpc=TCP/9090' },
    }),
  ]);
  assert.deepEqual(machine.leads('10.97.0.10 6 8000'), OF_A, 'by name, not by number');
  assert.deepEqual(machine.leads('10.97.0.10 6 90'), ['10.245.1.5 9090 *1']);
  assert.deepEqual(machine.view().problems.slice().sort(), [
    'cluster-a has no backend for port grpc/TCP',
    'cluster-b has no backend for port http/TCP',
    'port http/TCP is 80 in cluster-a, 8000 in cluster-b',
  ]);
});

test('an address that is somebody else’s is no frontend, until it is free', () => {
  const machine = new Machine([]);
  machine.taken.add('10.96.0.10');
  machine.put(A);
  assert.equal(machine.leads('10.96.0.10 6 80'), undefined);
  assert.equal(machine.view().frontends[0]?.refused, 'is taken');
  machine.taken.delete('10.96.0.10');
  machine.model.addressChanged('10.96.0.10');
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
});

test('weights of clusters shift connections, and 0 leaves a cluster out', () => {
  const machine = new Machine([A, B], {
    weights: new Map([
      ['cluster-a', 3],
      ['cluster-b', 0],
    ]),
  });
  assert.deepEqual(
    machine.leads('10.96.0.10 6 80'),
    OF_A.map((text) => text.replace('*1', '*3')),
  );
  assert.equal(machine.states()['10.245.1.5'], 'standby: the weight of cluster-b is 0');
});

test('of 100,000 backends each machine uses a share of its own, and says so', () => {
  const backends = Object.fromEntries(
    Array.from({ length: 100_000 }, (_, n) => [`10.${100 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}`, 'http=TCP/80']),
  );
  const fact = service('cluster-a', API, { frontends: { '10.96.0.10': 'http=TCP/80' }, backends });
  const [one, other] = ['vm-1', 'vm-2'].map(
    (machine) => new Machine([fact], { machine }).leads('10.96.0.10 6 80') ?? [],
  );
  assert.deepEqual([one?.length, other?.length], [MAX_TARGETS, MAX_TARGETS]);
  const both = (one ?? []).filter((each) => other?.includes(each)).length;
  assert.ok(both < MAX_TARGETS / 5, `${both} in common`);
  const machine = new Machine([fact]);
  assert.match(machine.view().problems[0] ?? '', /100000 backends of cluster-a are more than 8192/);
  const [tally] = machine.model.tallies();
  assert.deepEqual([tally?.backends.active, tally?.backends.standby], [MAX_TARGETS, 100_000 - MAX_TARGETS]);
  machine.put(B);
  assert.ok(
    machine.leads('10.96.0.10 6 80')?.length === MAX_TARGETS,
    'with those of others no more than the kernel takes',
  );
});

test('many ports and many backends do not become the product of both', () => {
  const named = (from: number): string =>
    Array.from({ length: 100 }, (_, n) => `p${from + n}=TCP/${1000 + n}`).join(' ');
  const frontends = Object.fromEntries(Array.from({ length: 10 }, (_, n) => [`10.96.0.${n}`, named(n * 100)] as const));
  // One list of ports for all backends, as endpoint slices have it.
  const all = ports(Array.from({ length: 10 }, (_, n) => named(n * 100)).join(' '));
  const texts = Array.from({ length: 8000 }, (_, n) => `10.100.${n >> 8}.${n & 255}`);
  const fact = service('cluster-a', API, { frontends });
  const machine = new Machine([{ ...fact, backends: new Map(texts.map((text) => [text, all])) }]);
  const counts = [...machine.model.frontends.keys()].map(
    (key) => machine.model.frontends.get(key)?.targets.length ?? 0,
  );
  assert.deepEqual([counts.length, new Set(counts)], [1000, new Set([262])]);
  assert.match(machine.view().problems.join(), /8000 backends are more than 262: this machine uses a share of them/);
});

test('a small cluster beside one of too many backends keeps all of its own', () => {
  const backends = Object.fromEntries(
    Array.from({ length: 20_000 }, (_, n) => [`10.100.${n >> 8}.${n & 255}`, 'http=TCP/8080']),
  );
  const machine = new Machine([A, service('cluster-b', API, { ...shapeOf(B), backends })], affinity('local'));
  assert.deepEqual(machine.leads('10.97.0.10 6 80'), OF_A);
});

test('of a thousand services that claim one address the first by name has it, and what the others do changes nothing', () => {
  const frontends = { '10.96.0.10': 'http=TCP/80' };
  const many = Array.from({ length: 1000 }, (_, n) => service('cluster-b', `default/s${n}`, { frontends }));
  const machine = new Machine(many);
  machine.model.drainChanges();
  const before = machine.model.ownerOf('10.96.0.10 6 80');
  assert.deepEqual(before, { name: 'default/s0', global: true });
  machine.put(service('cluster-b', 'default/s500', { frontends, backends: { '10.1.1.1': 'http=TCP/80' } }));
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), []);
  assert.deepEqual([...machine.model.drainChanges()], []);
});

test('a service with blanks in its name loses what it claimed like any other', () => {
  const odd = service('cluster-b', 'odd own/na me global', {
    frontends: { '10.96.0.10': 'http=TCP/80' },
    backends: { '10.6.6.6': 'http=TCP/80' },
  });
  const machine = new Machine([odd]);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), ['10.6.6.6 80 *1']);
  machine.put(
    service('cluster-a', API, {
      frontends: { '10.96.0.10': 'http=TCP/8080' },
      backends: { '10.244.1.5': 'http=TCP/80' },
    }),
  );
  assert.equal(machine.leads('10.96.0.10 6 80'), undefined);
  assert.equal(machine.view('odd own/na me global').frontends[0]?.refused, `is a frontend of ${API} of cluster-a`);
});

test('a changed prefix is looked at for the addresses that lie in it, and for no other', () => {
  const machine = new Machine([A, service('cluster-b', 'default/db', { frontends: { '10.97.0.1': 'TCP/1' } })]);
  machine.taken.add('10.96.0.10').add('10.97.0.1');
  machine.model.prefixChanged(parsePrefix('10.96.0.0/16') ?? assert.fail());
  assert.equal(machine.leads('10.96.0.10 6 80'), undefined);
  assert.deepEqual(machine.leads('10.97.0.1 6 1'), [], 'nobody said that it changed');
  machine.model.prefixChanged(parsePrefix('10.97.0.1/32') ?? assert.fail());
  assert.equal(machine.leads('10.97.0.1 6 1'), undefined);
});

const CHECK: CheckSettings = {
  type: 'tcp',
  path: '',
  port: undefined,
  intervalMs: 1000,
  timeoutMs: 1000,
  rise: 1,
  fall: 1,
};
const CHECKED: Partial<ServiceSettings> = { checks: new Map([[API, CHECK]]) };
const POOL = `${API} global`;

test('a backend that fails its check leaves, says why and since when, and comes back', () => {
  const machine = new Machine([A, B], CHECKED);
  assert.deepEqual([...machine.model.drainPlans()], [POOL]);
  assert.deepEqual([...(machine.model.planOf(POOL)?.targets.keys() ?? [])].sort(), [
    '10.244.1.5 6 8080',
    '10.244.1.6 6 8080',
    '10.245.1.5 6 8080',
    '10.245.1.6 6 8080',
  ]);
  machine.now = 5000;
  machine.model.setHealth(POOL, '10.244.1.5 6 8080', 'connection refused');
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), [OF_A[1], ...OF_B]);
  const [failing] = machine.view().backends;
  assert.deepEqual(
    [failing?.state, failing?.serving, failing?.reason, failing?.since],
    ['unhealthy', false, 'check failed: connection refused', 5000],
  );
  assert.deepEqual([...machine.model.drainPlans()], [], 'what it found out changes nothing in what is checked');
  machine.model.setHealth(POOL, '10.244.1.5 6 8080', undefined);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), [...OF_A, ...OF_B]);
});

test('when every backend fails its check all are used again: it may be this machine that is wrong', () => {
  const machine = new Machine([A], CHECKED);
  for (const place of machine.model.planOf(POOL)?.targets.keys() ?? []) machine.model.setHealth(POOL, place, 'x');
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_A);
  assert.equal(machine.states()['10.244.1.5'], 'unhealthy: check failed: x, and nothing better is left');
});

test('affinity local goes to the other cluster when every local backend fails its check', () => {
  const machine = new Machine([A, B], { ...CHECKED, ...affinity('local') });
  for (const [place, { address }] of machine.model.planOf(POOL)?.targets ?? [])
    if (formatAddress(address).startsWith('10.244.')) machine.model.setHealth(POOL, place, 'x');
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_B);
});

test('a backend of a lost cluster that passes its check is better than one that fails', () => {
  const machine = new Machine([A, B], CHECKED);
  machine.lose('cluster-b');
  for (const [place, { address }] of machine.model.planOf(POOL)?.targets ?? [])
    if (formatAddress(address).startsWith('10.244.')) machine.model.setHealth(POOL, place, 'x');
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), OF_B);
});

test('only services that are configured are checked, on TCP ports unless a port is given', () => {
  const dns = service('cluster-a', 'kube-system/dns', {
    frontends: { '10.96.0.11': 'dns=UDP/53 tcp=TCP/53' },
    backends: { '10.244.1.7': 'dns=UDP/5353 tcp=TCP/5353' },
  });
  const keys = (settings: Partial<ServiceSettings>): string[] => {
    const { model } = new Machine([A, dns], settings);
    return [...model.drainPlans()].flatMap((pool) => [...(model.planOf(pool)?.targets.keys() ?? [])]).sort();
  };
  assert.deepEqual(keys({}), []);
  assert.deepEqual(keys({ defaultCheck: CHECK, checks: new Map([[API, 'none']]) }), ['10.244.1.7 6 5353']);
  const withPort = { ...CHECK, port: 8181 };
  assert.deepEqual(keys({ checks: new Map([['kube-system/dns', withPort]]) }), [
    '10.244.1.7 17 5353',
    '10.244.1.7 6 5353',
  ]);
});

test('a backend that its cluster calls terminating gets no new connections while another is there, a not ready one never', () => {
  const conditions = { '10.244.1.5': 'terminating', '10.245.1.5': 'not-ready' } as const;
  const machine = new Machine([
    service('cluster-a', API, { ...shapeOf(A), conditions }),
    service('cluster-b', API, { ...shapeOf(B), conditions }),
  ]);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), [OF_A[1], OF_B[1]]);
  assert.equal(machine.states()['10.244.1.5'], 'terminating: cluster-a says that it is going away');
  assert.equal(machine.states()['10.245.1.5'], 'not-ready: cluster-b says that it is not ready');
  machine.put(service('cluster-a', API, { ...shapeOf(A), conditions: { ...conditions, '10.244.1.6': 'not-ready' } }));
  machine.model.setService('cluster-b', API, undefined);
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), [OF_A[0]], 'nothing else is left');
  machine.put(
    service('cluster-a', API, {
      ...shapeOf(A),
      conditions: { '10.244.1.5': 'not-ready', '10.244.1.6': 'not-ready' },
    }),
  );
  assert.deepEqual(machine.leads('10.96.0.10 6 80'), []);
});

test('a backend of a headless service leaves its name when one of its ports fails, and all of them go on being checked', () => {
  const headless = service('cluster-a', API, {
    backends: { '10.244.1.5': 'http=TCP/80 grpc=TCP/90', '10.244.1.6': 'http=TCP/80 grpc=TCP/90' },
  });
  const machine = new Machine([headless], CHECKED);
  const named = (): string[] =>
    machine.model.named(API).flatMap(({ headless: all = [] }) => all.map(({ address }) => formatAddress(address)));
  const checked = (): number => machine.model.planOf(POOL)?.targets.size ?? 0;
  assert.deepEqual([named(), checked()], [['10.244.1.5', '10.244.1.6'], 4]);
  machine.model.setHealth(POOL, '10.244.1.5 6 80', 'connection refused');
  machine.model.settle();
  assert.deepEqual([named(), checked()], [['10.244.1.6'], 4]);
  assert.equal(machine.states()['10.244.1.5'], 'unhealthy: check failed: connection refused');
});
