import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatPrefix, type Prefix, parsePrefix } from '../../src/core/ip.ts';
import { PrefixIndex } from '../../src/hub/workloads/prefix-index.ts';
import type { WorkloadRecord } from '../../src/hub/workloads/records.ts';
import { decodeWorkload } from '../../src/hub/workloads/workload.ts';
import { until } from '../lab/namespace.ts';
import { addressValue, nodeValue } from '../lab/values.ts';
import type { HubLab } from './hub-lab.ts';
import { HubScene } from './hub-scene.ts';

const scene = new HubScene();
const open = (config?: string): Promise<HubLab> => scene.start(config === undefined ? {} : { config });

const SMALL = `
cluster: {name: vms, id: 100}
pools: [10.192.0.0/29]
names: [hub.example.com]
`;

test('a workload is kept as it was asked for, with ranges from the pools', async () => {
  const hub = await open();
  const made = await hub.create('web-1', { namespace: 'shop', labels: { app: 'web' }, serviceAccount: 'runner' });
  assert.deepEqual(
    [made.name, made.namespace, made.labels, made.serviceAccount, made.ipv4AllocCidr, made.ipv6AllocCidr, made.state],
    ['web-1', 'shop', { app: 'web' }, 'runner', '10.192.0.0/30', 'fd00:192::/126', 'never-seen'],
  );
  assert.deepEqual(await hub.get('web-1'), made);
  const stored = await scene.etcd.get('mesh-agent/v1/workloads/shop/web-1');
  assert.equal(decodeWorkload('shop/web-1', Buffer.from(stored ?? '')).uid, made.uid);
  const ranges = await hub.store.list('mesh-agent/v1/ranges/');
  assert.deepEqual(
    ranges.map(({ key }) => key),
    ['10.192.0.0/30', 'fd00:192::/126', 'guard'],
  );
  const next = await hub.create('web-2');
  assert.deepEqual([next.ipv4AllocCidr, next.ipv6AllocCidr], ['10.192.0.4/30', 'fd00:192::4/126']);
});

test('names are unique over namespaces, also when several hubs create at the same moment', async () => {
  const [one, two] = [await open(), await open()];
  const results = await Promise.allSettled(
    ['a', 'b', 'c', 'd'].map((namespace, i) => (i % 2 === 0 ? one : two).create('web', { namespace })),
  );
  assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
  for (const result of results)
    if (result.status === 'rejected') assert.equal(result.reason.code, 'HUB-WORKLOAD-EXISTS', String(result.reason));
  await until('both know it', async () => (await listOf(one)).length === 1 && (await listOf(two)).length === 1);
});

const listOf = (hub: HubLab): Promise<WorkloadRecord[]> => hub.ask('GET', 'workloads');

test('several hubs that allocate at once never give out ranges that overlap', async () => {
  const pair = [await open(), await open()] as const;
  const made = await Promise.all(
    Array.from({ length: 24 }, (_, i) =>
      pair[i % 2 === 0 ? 0 : 1].create(`m${i}`, i % 8 === 3 ? { ipv4AllocCidr: `10.192.${i % 3}.0/28` } : {}).then(
        (record) => record.ipv4AllocCidr,
        (error: { code: string }) => error.code,
      ),
    ),
  );
  const given = made.filter((range) => range?.includes('/'));
  assert.ok(given.length >= 22, made.join(' '));
  for (const refused of made.filter((range) => !range?.includes('/'))) assert.equal(refused, 'HUB-RANGE');
  const index = new PrefixIndex();
  for (const text of given) {
    const range = parsePrefix(text ?? '') as Prefix;
    assert.equal(index.overlapping(range), undefined, text ?? '');
    index.add(range, 'x');
  }
});

test('an exhausted pool says so, and a deleted workload gives its range back', async () => {
  const hub = await open(SMALL);
  await hub.create('a');
  await hub.create('b');
  await assert.rejects(hub.create('c'), { code: 'HUB-POOL', message: /10\.192\.0\.0\/29.*workloads have 2/ });
  await hub.ask('DELETE', 'workloads/a');
  assert.deepEqual(hub.revoked, ['a'], 'its rights end');
  assert.equal((await hub.create('c')).ipv4AllocCidr, '10.192.0.0/30');
  await assert.rejects(hub.ask('DELETE', 'workloads/a'), { code: 'HUB-WORKLOAD-MISSING' });
  assert.equal(await scene.etcd.get('mesh-agent/v1/names/a'), undefined);
});

test('a range that is given must be free: of workloads, pools, and everything that connected clusters have', async () => {
  await scene.neighbor({ router: '10.2.0.99' });
  await scene.etcd.put(
    'cilium/cache/ip/v1/cluster-b/10.88.0.0/24',
    addressValue({ ip: '10.88.0.0/24', identity: 131_073 }),
  );
  const hub = await open();
  await hub.create('first', { ipv4AllocCidr: '10.50.0.0/24' });
  const refused: Readonly<Record<string, RegExp>> = {
    '10.50.0.128/25': /overlaps 10\.50\.0\.0\/24 of workload first/,
    '10.48.0.0/14': /workload first/,
    '10.192.0.0/16': /takes all of the pool/,
    '10.0.0.0/8': /takes all of the pool/,
    '10.2.0.16/30': /pod range 10\.2\.0\.0\/24 of node-1 in cluster cluster-b/,
    '10.2.0.0/16': /node-1 in cluster cluster-b/,
    '172.18.0.0/24': /node address 172\.18\.0\.7/,
    '10.77.0.4/30': /a pod of cluster cluster-b/,
    '10.76.0.0/15': /a pod of cluster cluster-b/,
    '10.88.0.4/30': /cluster-b has 10\.88\.0\.0\/24/,
    '10.50.1.1/24': /write 10\.50\.1\.0\/24/,
    '10.50.1.0': /no IPv4 prefix/,
    '8.0.0.0/7': /too large/,
    '127.0.0.0/24': /no addresses that machines can have/,
    '224.0.0.0/24': /no addresses/,
    'fd00::/64': /no IPv4 prefix/,
  };
  for (const [ipv4AllocCidr, reason] of Object.entries(refused))
    await assert.rejects(
      hub.create('second', { ipv4AllocCidr }),
      { code: 'HUB-RANGE', message: reason },
      ipv4AllocCidr,
    );
  assert.equal(
    (await hub.create('second', { ipv4AllocCidr: '10.192.5.0/24' })).ipv4AllocCidr,
    '10.192.5.0/24',
    'within a pool is fine',
  );
});

test('what a connected cluster has is stepped over in the pools', async () => {
  await scene.etcd.put(
    'cilium/cache/ip/v1/cluster-b/10.192.0.1',
    addressValue({ ip: '10.192.0.1', identity: 131_073 }),
  );
  const hub = await open(SMALL);
  assert.equal((await hub.create('a')).ipv4AllocCidr, '10.192.0.4/30');
  await assert.rejects(hub.create('b'), { code: 'HUB-POOL' });
});

test('a cluster that has half of a pool, or says that it has everything, does not hold up the rest', async () => {
  const node = (range4: string) =>
    nodeValue({ name: 'n', cluster: 'b', clusterId: 2, range4, addresses: [{ Type: 'InternalIP', IP: '172.18.0.7' }] });
  await scene.etcd.put('cilium/cache/nodes/v1/b/n', node('10.192.0.0/17'));
  await scene.etcd.put('cilium/cache/nodes/v1/b/all', node('0.0.0.0/0').replace('"Name":"n"', '"Name":"all"'));
  await scene.etcd.put('cilium/cache/ip/v1/b/0.0.0.0/0', addressValue({ ip: '0.0.0.0/0', identity: 131_073 }));
  const hub = await open();
  assert.equal((await hub.create('a')).ipv4AllocCidr, '10.192.128.0/30');
  assert.equal((await hub.create('b')).ipv4AllocCidr, '10.192.128.4/30');
  assert.match(await hub.metrics(), /mesh_agent_hub_workloads\{state="never-seen"\} 2/);
});

test('labels are those that Kubernetes takes, and none that say who a workload is', async () => {
  const hub = await open();
  const refused: readonly object[] = [
    { 'io.cilium.k8s.policy.cluster': 'cluster-b' },
    { 'io.kubernetes.pod.namespace': 'kube-system' },
    { 'io.kubernetes.pod.name': 'x' },
    { 'io.cilium.k8s.policy.serviceaccount': 'root' },
    { app: 'a;k8s:admin=true' },
    { 'a;b': 'c' },
    { app: 'x'.repeat(64) },
    { 'UPPER.example/x': '1' },
    { 'a/b/c': '1' },
    { '': '1' },
    { '-a': '1' },
    { app: '-' },
    Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`l${i}`, ''])),
  ];
  for (const labels of refused)
    await assert.rejects(hub.create('web', { labels }), { code: 'HUB-WORKLOAD' }, JSON.stringify(labels));
  for (const name of ['', 'Web', 'a/b', '..', 'a..b', 'x'.repeat(57), 'a_b'])
    await assert.rejects(hub.create(name), { code: 'HUB-WORKLOAD' }, name);
  await assert.rejects(hub.create('web', { namespace: 'a.b' }), { code: 'HUB-WORKLOAD' });
  await assert.rejects(hub.create('web', { labels: { a: 1 } }), { code: 'API-REQUEST' });
  await assert.rejects(hub.create('web', { label: {} }), { code: 'API-REQUEST' });
  const made = await hub.create('web.example', {
    labels: { 'app.kubernetes.io/name': 'w', Upper: 'V_1.x', empty: '' },
  });
  assert.deepEqual(made.labels, { Upper: 'V_1.x', 'app.kubernetes.io/name': 'w', empty: '' });
});

test('labels change live, from several hubs at once, and no change is lost', async () => {
  const pair = [await open(), await open()] as const;
  await pair[0].create('web', { labels: { app: 'web', old: '1' } });
  await pair[1].facts.book.ready();
  await until('both know it', () => pair[1].facts.book.get('web') !== undefined);
  await Promise.all(
    Array.from({ length: 8 }, (_, i) =>
      pair[i % 2 === 0 ? 0 : 1].ask('PUT', 'workloads/web', {
        labels: { [`l${i}`]: 'x' },
        removeLabels: i === 0 ? ['old'] : [],
      }),
    ),
  );
  await until('all is seen', async () => Object.keys((await pair[0].get('web')).labels).length === 9);
  const { labels, changed, created } = await pair[0].get('web');
  assert.deepEqual(Object.keys(labels), ['app', 'l0', 'l1', 'l2', 'l3', 'l4', 'l5', 'l6', 'l7']);
  assert.ok(changed > created);
});

test('an object that cannot be read is no workload, and is told', async () => {
  const hub = await open();
  const { uid } = await hub.create('good');
  const text = (await scene.etcd.get('mesh-agent/v1/workloads/default/good')) ?? '';
  const object = JSON.parse(text) as Record<string, unknown>;
  for (const [name, wrong] of Object.entries({
    newer: { ...object, version: 2 },
    unknown: { ...object, privileged: true },
    other: { ...object, name: 'good' },
    labels: { ...object, labels: { 'io.cilium.k8s.policy.cluster': 'x' } },
    range: { ...object, ipv4AllocCidr: '10.192.0.1/30' },
    array: [],
  }))
    await scene.etcd.put(
      `mesh-agent/v1/workloads/default/${name}`,
      JSON.stringify(name === 'other' || name === 'array' ? wrong : { ...wrong, name }),
    );
  await scene.etcd.put('mesh-agent/v1/workloads/default/broken', '{');
  await until('all are seen', () => hub.facts.book.unreadable.size === 7);
  assert.deepEqual(
    (await listOf(hub)).map((each) => each.uid),
    [uid],
  );
  await scene.etcd.put('mesh-agent/v1/workloads/default/good', '{"version":3}');
  await until('it is seen', () => hub.facts.book.unreadable.size === 8);
  assert.equal((await hub.get('good')).uid, uid, 'a good one stays in force behind one that cannot be read');
});

test('prefixes overlap as a slow comparison says they do', () => {
  const random = seeded(7);
  for (let round = 0; round < 30; round++) {
    const index = new PrefixIndex();
    const held: Prefix[] = [];
    for (let i = 0; i < 60; i++) {
      const prefix = parsePrefix(`10.0.${random(4)}.${random(256)}/${20 + random(13)}`) as Prefix;
      const slow = held.some((each) => overlap(each, prefix));
      assert.equal(index.overlapping(prefix) !== undefined, slow, formatPrefix(prefix));
      if (random(3) === 0 && held.length > 0) {
        const [gone] = held.splice(random(held.length), 1) as [Prefix];
        if (!held.some((each) => formatPrefix(each) === formatPrefix(gone))) index.remove(gone, 'x');
      } else if (!slow || random(2) === 0) {
        held.push(prefix);
        index.add(prefix, 'x');
      }
    }
    const pool = parsePrefix('10.0.0.0/22') as Prefix;
    const free = index.firstFree(pool, 30);
    const slow = Array.from({ length: 256 }, (_, i) => parsePrefix(`10.0.${i >> 6}.${(i & 63) * 4}/30`) as Prefix).find(
      (candidate) => !held.some((each) => overlap(each, candidate)),
    );
    assert.equal(free && formatPrefix(free), slow && formatPrefix(slow));
  }
});

function overlap(a: Prefix, b: Prefix): boolean {
  const shift = 32 - Math.min(a.bits, b.bits);
  return ((a.words[0] ?? 0) ^ (b.words[0] ?? 0)) >>> shift === 0;
}

function seeded(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state >>> 8) % below;
  };
}
