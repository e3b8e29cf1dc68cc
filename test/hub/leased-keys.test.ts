import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import type { LeasedKeysOptions } from '../../src/kvstore/leased-keys.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

const P = 'cilium/state/ip/v1/default/';
let etcd: Etcd;
let stores: WriterStore[] = [];

function open(): WriterStore {
  const store = openWriterStore({
    etcd: async () => ({ endpoints: etcd.endpoints }),
    timing: { retryMinMs: 50, retryMaxMs: 300 },
  });
  stores.push(store);
  return store;
}

const options = (more: Partial<LeasedKeysOptions> = {}): LeasedKeysOptions => ({ prefixes: [P], ...more });

before(async () => {
  etcd = await Etcd.start();
});
after(async () => {
  await close();
  await etcd.close();
});
async function close(): Promise<void> {
  await Promise.all(stores.map((store) => store.close()));
  stores = [];
}
beforeEach(async () => {
  await close();
  await etcd.ctl('del', '--prefix', 'cilium/');
});

test('a transaction compares what it is told to compare, and tells its own refusal from that of one within', async () => {
  const store = open();
  await store.put('cilium/a', '1');
  const a = await store.read('cilium/a');
  assert.ok(a);
  assert.deepEqual([a.version, a.createRevision === a.modRevision, a.lease, a.value.toString()], [1, true, '0', '1']);
  const holds = async (condition: object): Promise<boolean> =>
    (await store.transact({ when: [{ key: 'cilium/a', ...condition } as never] })).succeeded;
  assert.deepEqual(
    await Promise.all([
      holds({ createRevision: a.createRevision }),
      holds({ createRevision: 0 }),
      holds({ modRevision: a.modRevision }),
      holds({ modRevision: a.modRevision, is: 'greater' }),
      holds({ modRevision: a.modRevision, is: 'not-equal' }),
      holds({ modRevision: a.modRevision + 1, is: 'less' }),
      holds({ version: 1 }),
      holds({ value: '1' }),
      holds({ value: '' }),
      holds({ lease: '0' }),
    ]),
    [true, false, true, false, false, true, true, true, false, true],
  );
  const nested = await store.transact({
    when: [{ key: 'cilium/a', version: 1 }],
    perform: [
      {
        transaction: {
          when: [{ key: 'cilium/none', version: 5 }],
          perform: [{ put: 'cilium/b', value: 'x' }],
          otherwise: [{ list: 'cilium/' }, { remove: 'cilium/a' }],
        },
      },
    ],
  });
  const within = nested.answers[0]?.result;
  assert.deepEqual([nested.succeeded, within?.succeeded], [true, false]);
  assert.deepEqual(
    within?.answers.map(({ found, removed }) => [found.map(({ key }) => key), removed]),
    [
      [['cilium/a'], 0],
      [[], 1],
    ],
  );
  assert.equal(await store.get('cilium/a'), undefined);
});

test('a prefix of many pages is read at one revision', async () => {
  const store = open();
  const keys = store.leasedKeys(options({ rate: 1e9 }));
  const value = 'x'.repeat(700);
  for (let i = 0; i < 5000; i++) keys.set(`${P}${i}`, value);
  await keys.settled();
  const { entries, revision } = await store.readPrefix(P);
  assert.equal(entries.length, 5000);
  assert.ok(entries.every(({ modRevision, key }) => modRevision <= revision && /^\d+$/.test(key)));
  assert.equal(new Set(entries.map(({ key }) => key)).size, 5000);
  const perLease = new Map<string, number>();
  for (const { lease } of entries) perLease.set(lease, (perLease.get(lease) ?? 0) + 1);
  assert.ok([...perLease.values()].every((count) => count <= 1000) && !perLease.has('0'));
  await keys.close();
  assert.equal((await store.readPrefix(P)).entries.length, 0);
});

test('who comes next takes the keys over without writing them again, and sweeps what is not wanted any more', async () => {
  const first = open();
  const before = first.leasedKeys(options());
  for (let i = 0; i < 300; i++) before.set(`${P}${i}`, `v${i}`);
  await before.settled();
  await before.close({ keep: true });
  await first.close();
  const store = open();
  const old = new Map((await store.readPrefix(P)).entries.map((kv) => [kv.key, kv]));
  assert.equal(old.size, 300);
  const keys = store.leasedKeys(options());
  for (let i = 0; i < 200; i++) keys.set(`${P}${i}`, i === 7 ? 'changed' : `v${i}`);
  await keys.settled();
  assert.equal((await store.readPrefix(P)).entries.length, 300);
  keys.sweep();
  await keys.settled();
  const now = (await store.readPrefix(P)).entries;
  assert.deepEqual(
    now.map(({ key }) => Number(key)).sort((a, b) => a - b),
    [...Array(200).keys()],
  );
  const rewritten = now.filter(({ key, modRevision }) => modRevision !== old.get(key)?.modRevision);
  assert.deepEqual(
    rewritten.map(({ key }) => key),
    ['7'],
  );
  await keys.close();
});

test('a lease that was lost, a key that was removed or changed by someone, and an emptied store are healed', async () => {
  const store = open();
  const keys = store.leasedKeys(options({ ttlSeconds: 5 }));
  for (let i = 0; i < 50; i++) keys.set(`${P}${i}`, `v${i}`);
  await keys.settled();
  const all = async (): Promise<boolean> => {
    const { entries } = await store.readPrefix(P);
    return (
      entries.length === 50 && entries.every(({ key, value, lease }) => value.toString() === `v${key}` && lease !== '0')
    );
  };
  assert.ok(await all());
  const lease = (await store.readPrefix(P)).entries[0]?.lease ?? '';
  await etcd.ctl('lease', 'revoke', lease);
  await until('keys of a lost lease are back', all);
  await etcd.ctl('del', `${P}3`);
  await etcd.ctl('put', `${P}4`, 'foreign');
  await until('a removed and a changed key are back', all);
  keys.sweep();
  await etcd.ctl('put', `${P}foreign`, 'x');
  await until('a foreign key is gone', all);
  await etcd.reset();
  await until('keys are back in an empty store', () => all().catch(() => false), 20_000);
  await keys.settled();
  await keys.close();
});

test('keys outlive their time to live while they are kept, also over a restart of the store, and end with it otherwise', async () => {
  const store = open();
  const keys = store.leasedKeys(options({ ttlSeconds: 2 }));
  keys.set(`${P}a`, '1');
  await keys.settled();
  const born = (await store.read(`${P}a`))?.createRevision;
  await etcd.restart();
  const from = Date.now();
  await until('twice the time to live', () => Date.now() - from > 5000);
  assert.equal((await store.read(`${P}a`))?.createRevision, born);
  await keys.close({ keep: true });
  await until('the lease ran out', async () => (await store.read(`${P}a`)) === undefined, 15_000);
});

test('a guard that does not hold ends all writing, and tells its owner once', async () => {
  const store = open();
  await store.put('cilium/leader', 'a');
  let refused = 0;
  const guard = [{ key: 'cilium/leader', value: 'a' }];
  const keys = store.leasedKeys(options({ guard: () => guard, onRefused: () => refused++ }));
  keys.set(`${P}a`, '1');
  await keys.settled();
  await store.put('cilium/leader', 'b');
  keys.set(`${P}b`, '2');
  await assert.rejects(keys.settled(), { code: 'HUB-NOT-LEADER' });
  await assert.rejects(keys.settled(), { code: 'HUB-NOT-LEADER' });
  await keys.close();
  assert.equal(refused, 1);
  assert.deepEqual(
    (await store.readPrefix(P)).entries.map(({ key }) => key),
    ['a'],
  );
});

test('one value that is too large does not stop the others', async () => {
  const store = open();
  const keys = store.leasedKeys(options());
  keys.set(`${P}a`, '1');
  keys.set(`${P}huge`, 'x'.repeat(2 << 20));
  for (let i = 0; i < 20; i++) keys.set(`${P}b${i}`, '2');
  await keys.settled();
  assert.equal((await store.readPrefix(P)).entries.length, 21);
  await keys.close();
});

test('keys outside of the prefixes are refused', async () => {
  const keys = open().leasedKeys(options());
  assert.throws(() => keys.set('cilium/state/nodes/v1/a', '1'), RangeError);
  await keys.close();
});

test('whoever waits before anything was read is told, also when there is nothing to write', async () => {
  const store = open();
  const keys = store.leasedKeys(options());
  await Promise.race([
    keys.settled(),
    new Promise((_, reject) => setTimeout(reject, 10_000, new Error('nobody was told')).unref()),
  ]);
  await keys.close();
});
