import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { connected, Mirror, QUICK, trouble } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

const open = () => openStore({ etcd: async () => ({ endpoints: etcd.endpoints }), timing: QUICK });

test('a key is written, read, listed and removed', async () => {
  const store = open();
  try {
    assert.equal(await store.get('basic/a'), undefined);
    await store.put('basic/a', 'one');
    await store.put('basic/b', Buffer.from([0, 255, 10]));
    const found = await store.get('basic/a');
    assert.equal(found?.key, 'basic/a');
    assert.equal(found?.value.toString(), 'one');
    assert.equal(found?.lease, '0');
    assert.equal(found?.modRevision, (await etcd.revision()) - 1);
    const list = await store.list('basic/');
    assert.deepEqual(
      list.map(({ key, value }) => [key, value.toString('hex')]),
      [
        ['a', '6f6e65'],
        ['b', '00ff0a'],
      ],
    );
    assert.equal(await store.remove('basic/a'), true);
    assert.equal(await store.remove('basic/a'), false);
    assert.equal(store.status.state, 'connected');
    assert.equal(store.status.endpoint, etcd.endpoints[0]);
    assert.match(
      store.status.summary,
      /^etcd: 1\/1 connected, leases=0, lock leases=0, has-quorum=true, ID: [0-9a-f]+$/,
    );
  } finally {
    await store.close();
  }
});

test('values that are kept do not keep the answer that they came in', async () => {
  const store = open();
  try {
    for (let i = 0; i < 20; i++) await store.put(`pin/${i}`, 'x'.repeat(50_000));
    for (const { value } of await store.list('pin/')) assert.ok(value.buffer.byteLength <= 65_536);
    assert.ok(((await store.get('pin/1'))?.value.buffer.byteLength ?? 0) <= 65_536);
  } finally {
    await store.close();
  }
});

test('a list longer than many pages is complete, also with keys that need a page of their own', async () => {
  const store = open();
  try {
    const large = 'x'.repeat(700_000);
    await Promise.all(Array.from({ length: 3000 }, (_, i) => store.put(`long/${i}`, i % 300 === 0 ? large : `${i}`)));
    const list = await store.list('long/');
    assert.equal(list.length, 3000);
    assert.equal(new Set(list.map(({ key }) => key)).size, 3000);
    const mirror = new Mirror();
    const watch = store.watchPrefix('long/', mirror);
    await until('it is synced', () => watch.synced);
    assert.equal(mirror.content.size, 3000);
    assert.equal(mirror.content.get('600')?.length, 700_000);
  } finally {
    await store.close();
  }
});

test('a watched prefix shows neither its neighbors nor a cluster with a longer name', async () => {
  const store = open();
  try {
    for (const key of ['near/vm/1', 'near/vm2/1', 'near/vl/1', 'near/vm']) await store.put(key, key);
    const mirror = new Mirror();
    const watch = store.watchPrefix('near/vm/', mirror);
    await until('it is synced', () => watch.synced);
    for (const key of ['near/vm2/2', 'near/vm/2', 'near/vm0', 'near/vm']) await store.put(key, 'new');
    await until('the change is there', () => mirror.content.size === 2);
    assert.deepEqual([...mirror.content], [['1', 'near/vm/1'], ['2', 'new']]); // biome-ignore format: one line says it
  } finally {
    await store.close();
  }
});

test('one key alone is followed over its whole life', async () => {
  const store = open();
  try {
    await store.put('single/key/longer', 'no');
    const mirror = new Mirror();
    const watch = store.watchKey('single/key', mirror);
    await until('it is synced', () => watch.synced);
    assert.equal(mirror.content.size, 0);
    await store.put('single/key', 'one');
    await until('it is there', () => mirror.content.get('') === 'one');
    await store.put('single/key/longer', 'still no');
    await store.put('single/key', 'two');
    await until('it changed', () => mirror.content.get('') === 'two');
    await store.remove('single/key');
    await until('it is gone', () => mirror.content.size === 0);
    assert.deepEqual(mirror.removed, ['']);
    assert.equal(mirror.puts, 2);
    assert.equal(watch.lists, 1);
  } finally {
    await store.close();
  }
});

test('a closed watch is told nothing more, the others go on', async () => {
  const store = open();
  try {
    const [closed, open] = [new Mirror(), new Mirror()];
    const [first, second] = [store.watchPrefix('two/', closed), store.watchPrefix('two/', open)];
    await until('both are synced', () => first.synced && second.synced);
    first.close();
    await store.put('two/a', '1');
    await until('the open one has it', () => open.content.size === 1);
    assert.equal(closed.puts, 0);
  } finally {
    await store.close();
  }
});

test('a value that the sink does not take is told and skipped', async () => {
  const events: string[] = [];
  const store = openStore({
    etcd: async () => ({ endpoints: etcd.endpoints }),
    onEvent: ({ kind, message }) => events.push(`${kind}: ${message}`),
  });
  try {
    await store.put('bad/1', 'bad');
    await store.put('bad/2', 'good');
    const mirror = new Mirror();
    const watch = store.watchPrefix('bad/', {
      listing: () => mirror.listing(),
      put(key, value) {
        if (value.toString() === 'bad') throw new Error('no such value');
        mirror.put(key, value);
      },
      remove: (key) => mirror.remove(key),
      listed: () => mirror.listed(),
    });
    await until('it is synced', () => watch.synced);
    await store.put('bad/3', 'bad');
    await store.put('bad/4', 'good');
    await until('what came behind is there', () => mirror.content.has('4'));
    assert.deepEqual([...mirror.content.keys()], ['2', '4']);
    assert.deepEqual(
      events.filter((event) => event.startsWith('sink-error')),
      ['sink-error: value of bad/1 was not taken', 'sink-error: value of bad/3 was not taken'],
    );
  } finally {
    await store.close();
  }
});

test('a store that cannot be reached says why, answers requests in time, and closes at once', async () => {
  const store = openStore({ etcd: async () => ({ endpoints: ['http://127.0.0.1:1'] }), timing: QUICK });
  const began = Date.now();
  await trouble(store, 'KVS-REFUSED');
  assert.equal(store.status.state, 'failed');
  assert.match(store.status.summary, /nothing listens at the store endpoint.*: check that/);
  await assert.rejects(store.get('a'), { code: 'KVS-REFUSED' });
  assert.ok(Date.now() - began < 8000);
  const closing = Date.now();
  await store.close();
  assert.ok(Date.now() - closing < 1000, 'it does not wait for attempts');
  await assert.rejects(store.get('a'), { code: 'KVS-LOST' });
  assert.equal(store.status.state, 'closed');
});

test('environment variables for web proxies are not meant for the store', async () => {
  const names = ['http_proxy', 'https_proxy', 'grpc_proxy'];
  for (const name of names) process.env[name] = 'http://127.0.0.1:1';
  const store = open();
  try {
    await connected(store);
  } finally {
    for (const name of names) delete process.env[name];
    await store.close();
  }
});
