import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { connected } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

/** A store with the usual times, behind a proxy. */
async function behindProxy() {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = openStore({ etcd: async () => ({ endpoints: [proxy.endpoint] }) });
  const close = async (): Promise<void> => {
    await store.close();
    await proxy.close();
  };
  await connected(store);
  return { proxy, store, close };
}

test('a connection whose network changed, and that does not answer, is made anew long before its pings fail', async () => {
  const { proxy, store, close } = await behindProxy();
  try {
    proxy.blackhole();
    const began = performance.now();
    for (let i = 0; i < 100; i++) store.networkChanged();
    await until('it is noticed', () => store.status.state === 'failed', 5000);
    assert.ok(performance.now() - began < 4500);
    assert.equal(store.status.lastFailure?.code, 'KVS-LOST');
    proxy.heal();
    await connected(store);
  } finally {
    await close();
  }
});

test('a connection that answers stays, however often the network changes', async () => {
  const { proxy, store, close } = await behindProxy();
  try {
    const { accepted } = proxy;
    for (let i = 0; i < 50; i++) {
      store.networkChanged();
      await store.get('some-key');
    }
    // Longer than the answer may take.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    assert.deepEqual([store.status.state, store.status.reconnections, proxy.accepted], ['connected', 0, accepted]);
  } finally {
    await close();
  }
});

test('a store that waits before its next attempt does not wait any longer', async () => {
  const { proxy, store, close } = await behindProxy();
  try {
    proxy.refuse();
    // Pauses are of several seconds by now.
    await until('it has failed for a while', () => store.status.failures >= 6, 20_000);
    proxy.heal();
    const began = performance.now();
    store.networkChanged();
    await connected(store);
    assert.ok(performance.now() - began < 1500, `${performance.now() - began} ms`);
  } finally {
    await close();
  }
});

test('a closed store, and one that is closed in doubt, end at once', async () => {
  const { proxy, store, close } = await behindProxy();
  proxy.blackhole();
  store.networkChanged();
  const began = performance.now();
  await close();
  assert.ok(performance.now() - began < 1000);
  store.networkChanged();
});
