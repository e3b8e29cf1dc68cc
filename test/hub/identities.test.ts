import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { identityBlock } from '../../src/core/identity.ts';
import { encodeLabels, labelSet, makeLabel } from '../../src/core/labels.ts';
import { IdentityAllocator } from '../../src/hub/identities/allocator.ts';
import { IdentityCollector } from '../../src/hub/identities/collector.ts';
import { identityLabels } from '../../src/hub/identities/label-filter.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

const P = 'cilium/state/identities/v1/';
const CLUSTER = 77;
let etcd: Etcd;
let stores: WriterStore[] = [];
let allocators: IdentityAllocator[] = [];
let problems: string[] = [];

before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(async () => {
  await etcd.ctl('del', '--prefix', 'cilium/');
  await etcd.ctl('del', '--prefix', 'mesh-agent/');
});
afterEach(async () => {
  await Promise.all(allocators.map((allocator) => allocator.close()));
  await Promise.all(stores.map((store) => store.close()));
  [stores, allocators, problems] = [[], [], []];
});

async function open(suffix: string, max: 255 | 511 = 255, id = CLUSTER): Promise<IdentityAllocator> {
  const store = openWriterStore({ etcd: async () => ({ endpoints: etcd.endpoints }) });
  stores.push(store);
  const allocator = new IdentityAllocator({
    store,
    transact: (transaction) => store.transact(transaction),
    clusterId: id,
    max,
    suffix,
    onProblem: (message) => problems.push(message),
  });
  allocators.push(allocator);
  await allocator.ready();
  return allocator;
}

const labels = (...texts: string[]) =>
  labelSet(
    [...texts, 'io.cilium.k8s.policy.cluster=vms'].map((text) => {
      const [key = '', value = ''] = text.split('=');
      return makeLabel('k8s', key, value);
    }),
  );
const text = (app: string): string => `k8s:app=${app};k8s:io.cilium.k8s.policy.cluster=vms;`;

async function stored(prefix: string): Promise<Map<string, string>> {
  const entries = await (stores[0] as WriterStore).list(P + prefix);
  return new Map(entries.map(({ key, value }) => [key, value.toString()]));
}

test('an identity has a master without a lease, a user under a lease and no lock that is left', async () => {
  const allocator = await open('10.0.0.1');
  const id = await allocator.acquire(labels('app=vm', 'app.kubernetes.io/name=db'));
  const S = 'k8s:app=vm;k8s:app.kubernetes.io/name=db;k8s:io.cilium.k8s.policy.cluster=vms;';
  const store = stores[0] as WriterStore;
  const master = await store.read(`${P}id/${id}`);
  const user = await store.read(`${P}value/${S}/10.0.0.1`);
  assert.deepEqual([master?.value.toString(), master?.lease], [S, '0']);
  assert.equal(user?.value.toString(), String(id));
  assert.notEqual(user?.lease, '0');
  assert.equal((await stored('locks/')).size, 0);
});

for (const [max, first, last] of [
  [255, 5_046_272, 5_111_807],
  [511, 2_523_136, 2_555_903],
] as const)
  test(`with ${max} clusters numbers lie in the block of the cluster`, async () => {
    assert.deepEqual(identityBlock(CLUSTER, max), [first, last]);
    const allocator = await open('a', max);
    for (let i = 0; i < 40; i++) {
      const id = await allocator.acquire(labels(`app=${i}`));
      assert.ok(id >= first && id <= last, `${id}`);
    }
  });

test('two allocators at once: one number per label set, one label set per number', async () => {
  const pair = [await open('a'), await open('b')];
  const sets = Array.from({ length: 40 }, (_, i) => `app${i}`);
  const seen = new Map<string, Set<number>>();
  await Promise.all(
    pair.flatMap((allocator, seed) =>
      Array.from({ length: 6 }, async (_, worker) => {
        for (let step = 0; step < 40; step++) {
          const app = sets[(step * (7 + seed * 4) + worker * 13) % sets.length] as string;
          const id = await allocator.acquire(labels(`app=${app}`));
          seen.set(app, (seen.get(app) ?? new Set()).add(id));
          if ((step + worker) % 3 === 0) await allocator.release(labels(`app=${app}`));
        }
      }),
    ),
  );
  const masters = await stored('id/');
  assert.equal(masters.size, sets.length);
  assert.equal(new Set(masters.values()).size, sets.length);
  for (const app of sets) {
    assert.equal(seen.get(app)?.size, 1, app);
    assert.equal(masters.get(String([...(seen.get(app) ?? [])][0])), text(app));
  }
  assert.equal((await stored('locks/')).size, 0);
});

test('while others allocate, release and collect, nothing that is in use is ever collected, and no number changes its meaning', async () => {
  const pair = [await open('a'), await open('b')];
  const store = stores[0] as WriterStore;
  const history: string[] = [];
  const present = new Map<string, string>();
  const watch = store.watchPrefix(`${P}id/`, {
    listing() {},
    put(id, value) {
      const labels = value.toString();
      if (present.has(id)) history.push(`${id} was ${present.get(id)} and became ${labels}`);
      for (const [other, held] of present) if (held === labels) history.push(`${labels} is ${other} and ${id}`);
      present.set(id, labels);
    },
    remove: (id) => void present.delete(id),
    listed() {},
  });
  await until('it watches', () => watch.synced);
  const collectors = pair.map(
    (allocator) =>
      new IdentityCollector({
        allocator,
        transact: (transaction) => store.transact(transaction),
        onProblem: (message) => problems.push(message),
        quarantineSeconds: 60,
      }),
  );
  let over = false;
  let collected = 0;
  const collecting = collectors.map(async (collector) => {
    while (!over) {
      collected += await collector.round();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  });
  const random = (below: number): number => Math.floor(Math.random() * below);
  await Promise.all(
    pair.flatMap((allocator) =>
      Array.from({ length: 4 }, async () => {
        for (let step = 0; step < 40; step++) {
          const set = labels(`app=${random(6)}`);
          const id = await allocator.acquire(set);
          await new Promise((resolve) => setTimeout(resolve, random(20)));
          const master = await store.get(`${P}id/${id}`);
          assert.equal(master?.value.toString(), encodeLabels(set), 'what is in use is there');
          await allocator.release(set);
        }
      }),
    ),
  );
  over = true;
  await Promise.all(collecting);
  assert.deepEqual(history, []);
  assert.ok(collected > 0, 'something was collected meanwhile');
  watch.close();
});

test('a lock that somebody else holds is waited for', async () => {
  const allocator = await open('a');
  await etcd.put(`${P}locks/${text('x')}/694d7`, '');
  await allocator.mirror.until(() => [...allocator.mirror.locks()].length === 1, { ms: 5000 });
  let done = false;
  const waiting = allocator.acquire(labels('app=x')).then((id) => {
    done = true;
    return id;
  });
  await until('it queues behind', () => [...allocator.mirror.locks()].length === 2);
  assert.equal(done, false);
  assert.equal((await stored('id/')).size, 0);
  await etcd.ctl('del', `${P}locks/${text('x')}/694d7`);
  assert.ok((await waiting) > 0);
});

test('a number in use survives that someone removes or changes its master or user', async () => {
  const allocator = await open('a');
  const id = await allocator.acquire(labels('app=x'));
  const store = stores[0] as WriterStore;
  await store.remove(`${P}id/${id}`);
  await until('the master is back', async () => (await store.get(`${P}id/${id}`))?.value.toString() === text('x'));
  await store.put(`${P}id/${id}`, text('other'));
  await until('the master is ours', async () => (await store.get(`${P}id/${id}`))?.value.toString() === text('x'));
  await store.remove(`${P}value/${text('x')}/a`);
  await until('the user is back', async () => (await store.get(`${P}value/${text('x')}/a`)) !== undefined);
  const lease = (await store.read(`${P}value/${text('x')}/a`))?.lease ?? '';
  await etcd.ctl('lease', 'revoke', lease);
  await until('under another lease', async () => {
    const user = await store.read(`${P}value/${text('x')}/a`);
    return user !== undefined && user.lease !== lease;
  });
});

test('references count: a number is collected after two rounds without a user, and not given again in its quarantine', async () => {
  const [one, two] = [await open('a'), await open('b')];
  const store = stores[0] as WriterStore;
  const collector = new IdentityCollector({
    allocator: one,
    transact: (transaction) => store.transact(transaction),
    onProblem: (message) => problems.push(message),
    quarantineSeconds: 600,
  });
  const id = await one.acquire(labels('app=x'));
  assert.equal(await one.acquire(labels('app=x')), id);
  assert.equal(await two.acquire(labels('app=x')), id);
  await one.release(labels('app=x'));
  await one.release(labels('app=x'));
  await until('our user is gone', () => one.mirror.users(text('x')).size === 1);
  for (let i = 0; i < 3; i++) assert.equal(await collector.round(), 0);
  await two.release(labels('app=x'));
  await until('no user is left', () => one.mirror.users(text('x')).size === 0);
  assert.equal(await collector.round(), 0, 'seen for the first time');
  assert.equal(await one.acquire(labels('app=x')), id, 'the same labels get the same number back');
  await one.release(labels('app=x'));
  await until('no user is left', () => one.mirror.users(text('x')).size === 0);
  assert.equal(await collector.round(), 0, 'it was used since the round before');
  assert.equal(await collector.round(), 1);
  assert.equal((await stored('id/')).size, 0);
  const quarantined = await store.read(`mesh-agent/v1/quarantine/${id}`);
  assert.notEqual(quarantined?.lease ?? '0', '0');
});

test('a number in quarantine is never picked, and the last free one is', async () => {
  const allocator = await open('a');
  const [first, last] = allocator.block;
  const store = stores[0] as WriterStore;
  const free = first + 300;
  // All but one of a short block would take long to write: the others are in quarantine or in use in the mirror alone.
  const taken = Array.from({ length: last - first + 1 }, (_, i) => first + i).filter((id) => id !== free);
  for (let at = 0; at < taken.length; at += 120)
    await store.transact({
      perform: taken.slice(at, at + 120).map((id) => ({
        put: id % 7000 === 0 ? `mesh-agent/v1/quarantine/${id}` : `${P}id/${id}`,
        value: `k8s:n=${id};`,
      })),
    });
  await until('all are known', () => allocator.mirror.size > 65_000, 60_000);
  assert.equal(await allocator.acquire(labels('app=last')), free);
  await assert.rejects(allocator.acquire(labels('app=none')), { code: 'HUB-IDENTITY' });
});

test('masters of other clusters are left alone; locks that were left behind are not', async () => {
  const allocator = await open('a');
  const store = stores[0] as WriterStore;
  const collector = new IdentityCollector({
    allocator,
    transact: (transaction) => store.transact(transaction),
    onProblem: (message) => problems.push(message),
  });
  await store.put(`${P}id/70000`, text('foreign'));
  await store.put(`${P}locks/${text('foreign')}/1`, '');
  await until('they are known', () => allocator.mirror.size === 1 && [...allocator.mirror.locks()].length === 1);
  await collector.round();
  await collector.round();
  assert.deepEqual([...(await stored('id/')).keys()], ['70000']);
  await until('the lock is gone', () => [...allocator.mirror.locks()].length === 0);
});

test('labels that have no form in the store are refused, slashes are not', async () => {
  const allocator = await open('a');
  await assert.rejects(allocator.acquire(labelSet([makeLabel('k8s', 'app', 'a;k8s:admin=')])), {
    code: 'HUB-IDENTITY',
  });
  await assert.rejects(allocator.acquire(labelSet([makeLabel('', 'app', 'a')])), { code: 'HUB-IDENTITY' });
  const one = await allocator.acquire(labels('a/b=1'));
  const other = await allocator.acquire(labels('a=1'));
  assert.notEqual(one, other);
});

test('the filter of identities keeps what Cilium 1.16 keeps', () => {
  const kept = (key: string): boolean => identityLabels(labelSet([makeLabel('k8s', key, 'v')])).length === 1;
  for (const key of [
    'app',
    'io.kubernetes.pod.namespace',
    'io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name',
    'app.kubernetes.io/name',
    'io.cilium.k8s.policy.cluster',
    'io.cilium.k8s.policy.serviceaccount',
    'topology.kubernetes.io/zone',
    'my.app.kubernetes.io/name',
  ])
    assert.ok(kept(key), key);
  for (const key of [
    'io.kubernetes.pod.name',
    'kubernetes.io/hostname',
    'beta.kubernetes.io/arch',
    'failure-domain.beta.kubernetes.io/zone',
    'k8s.io/x',
    'pod-template-hash',
    'controller-uid',
    'statefulset.kubernetes.io/pod-name',
    'annotation.x',
    'etcd_node',
  ])
    assert.ok(!kept(key), key);
});
