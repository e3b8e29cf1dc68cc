import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { connected, healthy, Mirror, QUICK, trouble } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

/** A store behind a proxy, with one watched prefix. */
async function behindProxy(prefix: string, timing = QUICK) {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = openStore({ etcd: async () => ({ endpoints: [proxy.endpoint] }), timing });
  const mirror = new Mirror();
  const watch = store.watchPrefix(prefix, mirror);
  const close = async (): Promise<void> => {
    await store.close();
    await proxy.close();
  };
  await until('it is synced', () => watch.synced);
  return { proxy, store, mirror, watch, close };
}

test('after a cut connection the watch goes on where it was: nothing is listed, lost or repeated', async () => {
  const { proxy, store, mirror, watch, close } = await behindProxy('cut/');
  try {
    await etcd.put('cut/a', '1');
    await until('a is there', () => mirror.content.has('a'));
    proxy.refuse();
    await trouble(store, 'KVS-LOST');
    assert.equal(mirror.content.get('a'), '1', 'facts stay');
    await etcd.put('cut/b', '2');
    await etcd.ctl('del', 'cut/a');
    assert.equal(watch.synced, true);
    proxy.heal();
    await mirror.matches(etcd, 'cut/');
    await healthy(store);
    assert.equal(watch.lists, 1);
    assert.equal(mirror.puts, 2);
    assert.deepEqual(mirror.removed, ['a']);
    assert.ok(store.status.reconnections >= 1);
  } finally {
    await close();
  }
});

test('a silent network is noticed within about ten seconds, and used again when it is back', async () => {
  const { proxy, store, mirror, close } = await behindProxy('silent/', { ...QUICK, checkMs: 60_000 });
  try {
    const began = Date.now();
    proxy.blackhole();
    await until('the loss is noticed', () => store.status.state !== 'connected', 14_000);
    assert.ok(Date.now() - began > 3000, 'it was the ping that noticed');
    await trouble(store, 'KVS-TIMEOUT');
    await etcd.put('silent/a', '1');
    proxy.heal();
    await mirror.matches(etcd, 'silent/');
    await healthy(store);
  } finally {
    await close();
  }
});

test('a hung server is noticed within about ten seconds, and used again when it goes on', async () => {
  const store = openStore({ etcd: async () => ({ endpoints: etcd.endpoints }), timing: { ...QUICK, checkMs: 60_000 } });
  const mirror = new Mirror();
  store.watchPrefix('hung/', mirror);
  try {
    await connected(store);
    etcd.pause();
    await until('the loss is noticed', () => store.status.state !== 'connected', 14_000);
    await trouble(store, 'KVS-TIMEOUT');
    etcd.resume();
    await etcd.put('hung/a', '1');
    await mirror.matches(etcd, 'hung/');
    await healthy(store);
  } finally {
    etcd.resume();
    await store.close();
  }
});

test('a slow and narrow network delays facts, but loses none', async () => {
  const { proxy, store, mirror, watch, close } = await behindProxy('slow/');
  try {
    proxy.latencyMs = 150;
    proxy.bytesPerSecond = 100_000;
    for (let i = 0; i < 60; i++) await etcd.put(`slow/${i}`, `${i}`.padEnd(3000, '.'));
    await mirror.matches(etcd, 'slow/', 30_000);
    assert.equal(watch.lists, 1);
    assert.equal(store.status.reconnections, 0);
    const again = new Mirror();
    store.watchPrefix('slow/', again);
    await again.matches(etcd, 'slow/', 30_000);
  } finally {
    await close();
  }
});
