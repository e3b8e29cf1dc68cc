import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import fc from 'fast-check';
import { parseAddress } from '../../src/core/ip.ts';
import { ALL_FACT_KINDS as FACT_KINDS, type FactKind, factPrefix } from '../../src/kvstore/paths.ts';
import { drainFacts, FactSink, type FollowedCluster } from '../../src/mesh/fact-sinks.ts';
import { Tables } from '../../src/mesh/tables.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { sliceValue } from '../lab/slice-value.ts';
import { addressValue, factKey, labelString, nodeValue, serviceValue } from '../lab/values.ts';
import { Following, Opened, populated, synced } from './following.ts';

const CLUSTER: FollowedCluster = { name: 'c', id: 5, max: 255, joined: false };
const FIRST = 5 * 65_536;
const LABELS = { app: 'a', 'io.cilium.k8s.policy.cluster': 'c' };

const PREFIXES = Object.fromEntries(FACT_KINDS.map((kind) => [kind, factPrefix(kind, 'c', 'direct')]));

function sinks(tables: Tables): Record<FactKind, FactSink> {
  const sink = (kind: FactKind): FactSink =>
    new FactSink(tables, CLUSTER, { kind, prefix: PREFIXES[kind] ?? '', onListed() {} });
  return {
    nodes: sink('nodes'),
    endpoints: sink('endpoints'),
    identities: sink('identities'),
    services: sink('services'),
    slices: sink('slices'),
  };
}

/** One good fact of each kind. */
const GOOD: Record<FactKind, readonly [key: string, value: string | Buffer]> = {
  nodes: [
    'n',
    nodeValue({ name: 'n', cluster: 'c', clusterId: 5, addresses: [{ Type: 'InternalIP', IP: '172.16.0.1' }] }),
  ],
  endpoints: ['10.0.0.1', addressValue({ ip: '10.0.0.1', identity: FIRST + 1, host: '172.16.0.1' })],
  identities: [String(FIRST + 1), labelString(LABELS)],
  services: ['ns/web', serviceValue({ cluster: 'c', clusterId: 5, namespace: 'ns', name: 'web' })],
  slices: [
    'ns/web-1',
    sliceValue({
      cluster: 'c',
      clusterId: 5,
      namespace: 'ns',
      name: 'web-1',
      service: 'web',
      endpoints: [{ addresses: ['10.0.0.1'] }],
      ports: [{ port: 80 }],
    }),
  ],
};

function counts(tables: Tables): number[] {
  return [
    tables.nodes.size,
    tables.ipcache.size,
    tables.identities.size,
    tables.services.size,
    tables.serviceSlices.size,
  ];
}

for (const kind of FACT_KINDS) {
  test(`a refused value of ${kind} keeps the accepted one, also over lists; a good one replaces it`, () => {
    const refused: string[] = [];
    const tables = new Tables(({ key }) => refused.push(key));
    const sink = sinks(tables)[kind];
    const [key, value] = GOOD[kind];
    const list = (given: string | Buffer): void => {
      sink.listing();
      sink.put(key, Buffer.from(given));
      sink.listed();
    };
    list(value);
    const before = counts(tables);
    assert.ok(before.some((count) => count > 0));
    sink.put(key, Buffer.from('{"garbage'));
    list('{"garbage');
    list('garbage of another kind');
    assert.deepEqual(counts(tables), before);
    assert.deepEqual(refused, [`${PREFIXES[kind]}${key}`]);
    assert.equal(tables.quarantine.countOf('c'), 1);
    list(value);
    assert.equal(tables.quarantine.size, 0);
    sink.put(key, Buffer.from('garbage'));
    sink.remove(key);
    assert.equal(tables.quarantine.size, 0);
    assert.deepEqual(counts(tables), [0, 0, 0, 0, 0]);
  });
}

test('a key in another spelling neither replaces nor removes what the right spelling said', () => {
  const tables = new Tables(() => {});
  const { endpoints, identities } = sinks(tables);
  const good = ['10.0.0.1', 'fd00::1', '10.1.0.0/16', 'fd01::/64', '10.2.0.1/32'];
  for (const sink of [endpoints, identities]) sink.listing();
  for (const ip of good) endpoints.put(ip, Buffer.from(addressValue({ ip, identity: FIRST + 1 })));
  identities.put(String(FIRST), Buffer.from(labelString(LABELS)));
  const others = [
    '010.0.0.1',
    '::ffff:10.0.0.1',
    '10.0.0.1/32',
    'FD00::1',
    'fd00:0::1',
    '10.1.5.5/16',
    'fd01::1/64',
    '10.2.0.1',
  ];
  for (const key of others) {
    endpoints.put(key, Buffer.from('garbage'));
    endpoints.remove(key);
  }
  for (const key of [`0${FIRST}`, `${FIRST}.0`, ` ${FIRST}`, `0x${FIRST.toString(16)}`, `${FIRST / 1e5}e5`, '']) {
    identities.put(key, Buffer.from(labelString(LABELS)));
    identities.remove(key);
  }
  assert.equal(tables.ipcache.size, good.length);
  assert.equal(tables.identities.size, 1);
});

test('no cluster claims all addresses, says that an address has no identity, or names an identity of others', () => {
  const tables = new Tables(() => {});
  const { endpoints, identities } = sinks(tables);
  const put = (ip: string, identity: unknown): void =>
    endpoints.put(ip, Buffer.from(addressValue({ ip, identity: identity as number })));
  for (const ip of ['0.0.0.0/0', '::/0']) put(ip, FIRST + 1);
  for (const id of [0, -1, 0.5, 1e308, FIRST - 1, FIRST + 65_536, 2 ** 24 + 1, 2 ** 32, '5', null, true, []])
    put('10.0.0.1', id);
  for (const id of [0, 1, 255, FIRST - 1, FIRST + 65_536, 2 ** 53])
    identities.put(String(id), Buffer.from(labelString(LABELS)));
  identities.put(String(FIRST), Buffer.from('k8s:io.cilium.k8s.policy.cluster=other;'));
  identities.put(String(FIRST), Buffer.from('io.cilium.k8s.policy.cluster=c;'));
  assert.deepEqual(counts(tables), [0, 0, 0, 0, 0]);
  put('10.0.0.1', 1);
  assert.equal(tables.ipcache.lookup({ family: 4, words: [0x0a000001] })?.identity, 6);
});

test('arbitrary keys and values of every kind never throw, and leave what is good in force', () => {
  const tables = new Tables(() => {});
  const all = sinks(tables);
  for (const kind of FACT_KINDS) {
    all[kind].listing();
    all[kind].put(GOOD[kind][0], Buffer.from(GOOD[kind][1]));
  }
  const before = counts(tables);
  const parts = fc.constantFrom(
    '__proto__',
    'constructor',
    'IP',
    'ID',
    'Name',
    'Cluster',
    'Labels',
    'backends',
    'Mask',
    '',
  );
  const json = fc.object({ key: parts, maxDepth: 4, withNullPrototype: true }).map((value) => JSON.stringify(value));
  // A good value with one piece of it changed.
  const spoilt = fc
    .tuple(fc.constantFrom(...FACT_KINDS), fc.nat(400), fc.string({ maxLength: 3 }))
    .map(([kind, at, text]) => GOOD[kind][1].slice(0, at) + text + GOOD[kind][1].slice(at + 1));
  const bytes = fc.uint8Array({ maxLength: 60 }).map((array) => Buffer.from(array));
  const value = fc.oneof(json, spoilt, fc.string()).map((text) => Buffer.from(text));
  const key = fc.oneof(
    fc.string({ unit: 'binary' }),
    parts,
    fc.constantFrom('evil', '10.9.9.9', `${FIRST + 9}`, 'a/b/c', '/', '..'),
  );
  fc.assert(
    fc.property(fc.constantFrom(...FACT_KINDS), key, fc.oneof(value, bytes), (kind, name, content) => {
      fc.pre(name !== GOOD[kind][0]);
      all[kind].put(name, content);
      all[kind].remove(name);
      assert.deepEqual(counts(tables), before);
    }),
    { numRuns: 3000 },
  );
  assert.equal(tables.quarantine.size, 0);
});

test('a cluster that goes takes exactly its own facts, in pieces that leave the event loop alone', async () => {
  const tables = new Tables(() => {});
  const [mine, other] = [sinks(tables), { ...CLUSTER, name: 'other', id: 6 }];
  const theirs = new FactSink(tables, other, { kind: 'endpoints', prefix: 'p/', onListed() {} });
  for (const sink of [mine.endpoints, theirs]) sink.listing();
  for (let index = 0; index < 60_000; index++) {
    const ip = `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`;
    mine.endpoints.put(ip, Buffer.from(addressValue({ ip, identity: FIRST + 1 })));
    if (index < 100) theirs.put(ip, Buffer.from(addressValue({ ip, identity: 6 * 65_536 })));
  }
  mine.nodes.listing();
  mine.nodes.put(GOOD.nodes[0], Buffer.from(GOOD.nodes[1]));
  drainFacts(tables, CLUSTER, (kind) => PREFIXES[kind] ?? '');
  // What is listed again before the end stays.
  mine.endpoints.listing();
  mine.endpoints.put('10.0.200.200', Buffer.from(addressValue({ ip: '10.0.200.200', identity: FIRST + 2 })));
  await until('it is drained', () => tables.ipcache.size === 101 && tables.nodes.size === 0);
  assert.equal(tables.ipcache.conflicts(10).length, 0);
});

let etcd: Etcd;
let opened: Opened;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(() => {
  opened = new Opened();
});
afterEach(() => opened.close());

function* malformed(): Generator<[kind: FactKind, key: string, value: string]> {
  const texts = [
    '',
    'null',
    '[]',
    '0',
    '"text"',
    '{',
    '{}',
    '{"__proto__":{"IP":"10.0.0.1","Name":"n"}}',
    '\u0000\uffff',
    '[[[[',
  ];
  for (let index = 0; index < 2500; index++) {
    const text = texts[index % texts.length] ?? '';
    const odd = ['', '%', '\n', ' ', '\u{1f600}', '"', '__proto__', 'constructor', '..'][index % 9] ?? '';
    yield ['nodes', `${odd}${index}`, text];
    yield [
      'endpoints',
      `10.66.${index >> 8}.${index & 255}`,
      index % 2 === 0 ? text : addressValue({ ip: '10.66.0.0', identity: 1e9 }),
    ];
    yield ['identities', String(FIRST + 20_000 + index), index % 2 === 0 ? text : 'k8s:app=a;'];
    yield [
      'services',
      `${odd}/${index}`,
      index % 2 === 0 ? text : serviceValue({ cluster: 'x', clusterId: 9, namespace: odd, name: `${index}` }),
    ];
  }
}

test('ten thousand malformed values and three of a megabyte do no harm: good facts work, each refusal is counted', async () => {
  const source = opened.add(await populated(etcd, { name: 'c', id: 5 }));
  for (const batch of chunks([...malformed()], 100)) {
    await source.store.putAll(batch.map(([kind, key, value]) => [factKey('c', 'direct', kind, key), value] as const));
  }
  const big = 'x'.repeat(1_000_000);
  await source.store.put(factKey('c', 'direct', 'nodes', 'big'), `{"Name":"${big}"}`);
  await source.store.put(factKey('c', 'direct', 'endpoints', '10.67.0.1'), `{"IP":"${big}"}`);
  await source.store.put(factKey('c', 'direct', 'identities', String(FIRST + 60_000)), `k8s:app=${big};`);
  const following = new Following(opened);
  const cluster = following.follow(etcd, 'c');
  await synced(cluster);
  const { tables } = following;
  assert.deepEqual(counts(tables), [2, 5, 3, 1, 0]);
  assert.equal(tables.quarantine.countOf('c'), 10_003);
  assert.equal(following.refused.length, 1000);
  assert.ok(JSON.stringify(tables.quarantine.list()).length < 1_000_000);
  await source.pod({ name: 'new', namespace: 'default', labels: { app: 'app-1' }, addresses: ['10.5.1.77'] });
  await until('a good fact arrives', () => following.identityOf('10.5.1.77') !== undefined);
  await source.store.removePrefix(factKey('c', 'direct', 'endpoints', '10.66.'));
  await until('what is gone is no longer counted', () => tables.quarantine.countOf('c') === 7503);
  assert.deepEqual(counts(tables), [2, 6, 3, 1, 0]);
  assert.notEqual(parseAddress('10.5.1.77'), undefined);
});

function chunks<T>(all: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(all.length / size) }, (_, index) =>
    all.slice(index * size, (index + 1) * size),
  );
}
