import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { healthy, Mirror, QUICK } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

const open = (endpoint = etcd.endpoints[0] ?? '') =>
  openStore({ etcd: async () => ({ endpoints: [endpoint] }), timing: QUICK });

async function holds(key: string, value: string | undefined, withinMs = 3000): Promise<void> {
  await until(`${key} is ${value}`, async () => (await etcd.get(key)) === value, withinMs);
}

/** The lease of a key, hexadecimal; `0` for none. */
async function leaseOf(key: string): Promise<string> {
  const text = await etcd.ctl('get', key, '-w', 'fields');
  return BigInt(/"Lease" : (\d+)/.exec(text)?.[1] ?? 0).toString(16);
}

test('an owned key is written under a lease, renewed, updated, and removed when it is released', async () => {
  const store = open();
  try {
    const owned = store.own('own/a', 'one', { ttlSeconds: 2 });
    await until('it is written', () => owned.written);
    assert.equal(await etcd.get('own/a'), 'one');
    assert.notEqual(await leaseOf('own/a'), '0');
    assert.equal(store.status.leases, 1);
    const lease = await leaseOf('own/a');
    const end = Date.now() + 5000;
    await until('two lives of the lease are over', () => Date.now() > end);
    assert.equal(await etcd.get('own/a'), 'one');
    assert.equal(await leaseOf('own/a'), lease, 'it is the same lease');
    owned.update('two');
    await holds('own/a', 'two');
    await until('it is written', () => owned.written);
    await owned.release();
    assert.equal(await etcd.get('own/a'), undefined);
    assert.equal(store.status.leases, 0);
    assert.doesNotMatch(await etcd.ctl('lease', 'list'), new RegExp(lease));
  } finally {
    await store.close();
  }
});

test('a released key that is kept, and the keys of a closed store, live on until their lease ends', async () => {
  const store = open();
  const kept = store.own('own/kept', '1', { ttlSeconds: 2 });
  const closed = store.own('own/closed', '1', { ttlSeconds: 3 });
  await until('both are written', () => kept.written && closed.written);
  await kept.release({ keep: true });
  assert.equal(await etcd.get('own/kept'), '1');
  await holds('own/kept', undefined, 10_000);
  assert.equal(await etcd.get('own/closed'), '1', 'the other one is kept alive');
  await store.close();
  assert.equal(await etcd.get('own/closed'), '1');
  await holds('own/closed', undefined, 10_000);
});

test('one released key of a shared lease does not take the other with it', async () => {
  const store = open();
  try {
    const [a, b] = [store.own('own/s1', '1', { ttlSeconds: 2 }), store.own('own/s2', '2', { ttlSeconds: 2 })];
    await until('both are written', () => a.written && b.written);
    assert.equal(await leaseOf('own/s1'), await leaseOf('own/s2'));
    await a.release();
    await holds('own/s1', undefined);
    const end = Date.now() + 3500;
    await until('a life of the lease is over', () => Date.now() > end);
    assert.equal(await etcd.get('own/s2'), '2');
  } finally {
    await store.close();
  }
});

test('a lease that is revoked: the key is back under a new one within a second or so', async () => {
  const store = open();
  try {
    const owned = store.own('own/lease', 'me');
    await until('it is written', () => owned.written);
    const lease = await leaseOf('own/lease');
    await etcd.ctl('lease', 'revoke', lease);
    await holds('own/lease', 'me', 2500);
    // The delete is seen before the keepalive learns that the lease is gone.
    await until('it has a new lease', async () => !['0', lease].includes(await leaseOf('own/lease')));
    await until('it is written', () => owned.written);
    await healthy(store);
  } finally {
    await store.close();
  }
});

test('a lease that expired while the store was away: the key is back under a new one', async () => {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = open(proxy.endpoint);
  try {
    const owned = store.own('own/expired', 'me', { ttlSeconds: 2 });
    await until('it is written', () => owned.written);
    proxy.refuse();
    await holds('own/expired', undefined, 10_000);
    proxy.heal();
    await holds('own/expired', 'me', 5000);
    await until('it is written', () => owned.written);
    await healthy(store);
  } finally {
    await store.close();
    await proxy.close();
  }
});

test('a lease outlives short breaks of the connection', async () => {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = open(proxy.endpoint);
  const mirror = new Mirror();
  store.watchKey('own/breaks', mirror);
  try {
    const owned = store.own('own/breaks', 'me', { ttlSeconds: 5 });
    await until('it is written', () => owned.written && mirror.content.size === 1);
    const lease = await leaseOf('own/breaks');
    for (let i = 0; i < 8; i++) {
      proxy.cut();
      const end = Date.now() + 900;
      await until('a while is over', () => Date.now() > end);
    }
    assert.equal(await leaseOf('own/breaks'), lease);
    assert.equal(mirror.puts, 1, 'it was never written again');
    assert.deepEqual(mirror.removed, []);
    assert.equal(owned.written, true);
  } finally {
    await store.close();
    await proxy.close();
  }
});

test('a key that somebody deletes is written again', async () => {
  const store = open();
  try {
    const owned = store.own('own/deleted', 'me');
    await until('it is written', () => owned.written);
    for (let i = 0; i < 3; i++) {
      await etcd.ctl('del', 'own/deleted');
      await holds('own/deleted', 'me', 2500);
    }
  } finally {
    await store.close();
  }
});

test('a store that lost its data gets the key again', async () => {
  const own = await Etcd.start();
  const store = open(own.endpoints[0]);
  try {
    const owned = store.own('own/lost', 'me');
    await until('it is written', () => owned.written);
    for (const sameClusterId of [true, false]) {
      await own.reset({ sameClusterId });
      await until('it is there again', async () => (await own.get('own/lost')) === 'me', 10_000);
      await until('it is written', () => owned.written);
      assert.equal(store.status.leases, 1);
    }
  } finally {
    await store.close();
    await own.close();
  }
});

test('a registration: the answer in our key stays until we update it, over reconnects and the end of our lease', async () => {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = open(proxy.endpoint);
  const mirror = new Mirror();
  const key = 'cilium/state/noderegister/v1/vm';
  store.watchKey(key, mirror);
  try {
    const owned = store.own(key, 'announcement', { ttlSeconds: 2 });
    await until('the announcement is there', () => mirror.content.get('') === 'announcement');
    const granted = /lease ([0-9a-f]+) granted/.exec(await etcd.ctl('lease', 'grant', '60'))?.[1] ?? '';
    await etcd.ctl('put', '--lease', granted, key, 'answer');
    await until('the answer is there', () => mirror.content.get('') === 'answer');
    proxy.cut();
    await until('it is connected again', () => store.status.reconnections > 0 && store.status.state === 'connected');
    proxy.refuse();
    const end = Date.now() + 4000;
    await until('our lease is over', () => Date.now() > end);
    proxy.heal();
    await healthy(store);
    const later = Date.now() + 1500;
    await until('it had time to do wrong', () => Date.now() > later);
    assert.equal(await etcd.get(key), 'answer');
    owned.update('registration');
    await holds(key, 'registration');
    assert.notEqual(await leaseOf(key), granted);
    await etcd.ctl('put', '--lease', granted, key, 'another answer');
    await etcd.ctl('lease', 'revoke', granted);
    await holds(key, 'registration', 2500);
    assert.equal(mirror.faults.length, 0);
  } finally {
    await store.close();
    await proxy.close();
  }
});

test('updates that come faster than they can be written end with the last one', async () => {
  const store = open();
  try {
    const [a, b] = [store.own('own/fast1', '-'), store.own('own/fast2', '-')];
    for (let i = 0; i < 200; i++) {
      a.update(`a${i}`);
      b.update(`b${i}`);
      if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 3));
    }
    await holds('own/fast1', 'a199');
    await holds('own/fast2', 'b199');
    await until('both are written', () => a.written && b.written);
  } finally {
    await store.close();
  }
});

test('a key that may not be written shows why, and is written once it may', async () => {
  const own = await Etcd.start();
  await own.ctl('user', 'add', 'root:secret');
  await own.ctl('user', 'grant-role', 'root', 'root');
  await own.ctl('user', 'add', 'vm:secret');
  await own.ctl('role', 'add', 'vm');
  await own.ctl('user', 'grant-role', 'vm', 'vm');
  await own.ctl('auth', 'enable');
  const login = { endpoints: own.endpoints, username: 'vm', password: 'secret' };
  const store = openStore({ etcd: async () => login, timing: QUICK });
  try {
    const owned = store.own('mine', '1');
    await until('the trouble shows', () =>
      store.status.troubles.some(({ subject, code }) => subject === 'key mine' && code === 'KVS-AUTH'),
    );
    assert.equal(owned.written, false);
    assert.match(owned.lastError ?? '', /permission denied/);
    await own.ctl('--user', 'root:secret', 'role', 'grant-permission', 'vm', 'readwrite', 'mine');
    await until('it is written', () => owned.written, 20_000);
    await healthy(store);
  } finally {
    await store.close();
    await own.close();
  }
});
