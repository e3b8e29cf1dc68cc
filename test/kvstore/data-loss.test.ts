import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import type { Store } from '../../src/kvstore/store.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { healthy, Mirror, QUICK, recorder } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

async function watched(prefix: string) {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const { events, onEvent } = recorder();
  const store = openStore({ etcd: async () => ({ endpoints: [proxy.endpoint] }), timing: QUICK, onEvent });
  const mirror = new Mirror();
  const watch = store.watchPrefix(prefix, mirror);
  await until('it is synced', () => watch.synced);
  const close = async (): Promise<void> => {
    await store.close();
    await proxy.close();
  };
  const lost = (): string[] => events.filter(({ kind }) => kind === 'data-lost').map(({ message }) => message);
  return { proxy, store, mirror, watch, lost, close };
}

async function fill(prefix: string, from: number, to: number): Promise<void> {
  for (let i = from; i < to; i++) await etcd.put(`${prefix}${i}`, `${i}`);
}

test('a watch whose history was compacted away lists again, and removes what vanished meanwhile', async () => {
  const { proxy, store, mirror, watch, lost, close } = await watched('compact/');
  try {
    await fill('compact/', 0, 5);
    await mirror.matches(etcd, 'compact/');
    proxy.refuse();
    await until('it is away', () => store.status.state !== 'connected');
    await etcd.ctl('del', 'compact/2');
    await etcd.put('compact/new', 'new');
    await etcd.compact();
    proxy.heal();
    await mirror.matches(etcd, 'compact/');
    await healthy(store);
    assert.equal(watch.lists, 2);
    assert.deepEqual(lost(), []);
  } finally {
    await close();
  }
});

test('a compaction while it is connected disturbs nothing', async () => {
  const { store, mirror, watch, close } = await watched('calm/');
  try {
    await fill('calm/', 0, 3);
    await etcd.compact();
    await fill('calm/', 3, 5);
    await mirror.matches(etcd, 'calm/');
    assert.equal(watch.lists, 1);
    assert.equal(store.status.failures, 0);
  } finally {
    await close();
  }
});

test('a store that comes back empty under another cluster id is listed again', async () => {
  const { store, mirror, watch, lost, close } = await watched('other/');
  try {
    await fill('other/', 0, 5);
    await mirror.matches(etcd, 'other/');
    const before = store.status.clusterId;
    await etcd.reset();
    await etcd.put('other/only', '1');
    await mirror.matches(etcd, 'other/');
    await healthy(store);
    assert.equal(watch.lists, 2);
    assert.notEqual(store.status.clusterId, before);
    assert.match(lost()[0] ?? '', /etcd cluster ID has changed from/);
    await etcd.put('other/later', '2');
    await mirror.matches(etcd, 'other/');
  } finally {
    await close();
  }
});

test('a store that comes back empty under the same cluster id is listed again: the revision went back', async () => {
  const { store, mirror, watch, lost, close } = await watched('same/');
  try {
    await fill('same/', 0, 20);
    await mirror.matches(etcd, 'same/');
    const before = store.status.clusterId;
    await etcd.reset({ sameClusterId: true });
    await etcd.put('same/only', '1');
    await mirror.matches(etcd, 'same/');
    await healthy(store);
    assert.equal(store.status.clusterId, before);
    assert.equal(watch.lists, 2);
    assert.match(lost()[0] ?? '', /etcd revision went back from/);
    await etcd.put('same/later', '2');
    await mirror.matches(etcd, 'same/');
  } finally {
    await close();
  }
});

test('a store that lost its data, and was filled beyond the old revision before we saw it, is listed again', async () => {
  const { proxy, store, mirror, watch, lost, close } = await watched('beyond/');
  try {
    await fill('beyond/', 0, 5);
    await mirror.matches(etcd, 'beyond/');
    const revision = await etcd.revision();
    proxy.refuse();
    await until('it is away', () => store.status.state !== 'connected');
    await etcd.reset({ sameClusterId: true });
    await fill('beyond/', 3, 6);
    while ((await etcd.revision()) <= revision + 3) await etcd.put('elsewhere', 'x');
    proxy.heal();
    await mirror.matches(etcd, 'beyond/');
    await healthy(store);
    assert.equal(watch.lists, 2);
    assert.match(lost()[0] ?? '', /not the history that was seen before/);
  } finally {
    await close();
  }
});

test('after random writes, deletes, compactions, cuts and restarts the mirrors show what the store holds', async () => {
  const { proxy, store, mirror, close } = await watched('stress/');
  const narrow = new Mirror();
  store.watchPrefix('stress/1', narrow);
  const single = new Mirror();
  store.watchKey('stress/10', single);
  const writer = openStore({ etcd: async () => ({ endpoints: etcd.endpoints }), timing: QUICK });
  try {
    const end = Date.now() + 6000;
    const disturb = async (): Promise<void> => {
      for (let round = 0; Date.now() < end; round++) {
        await new Promise((resolve) => setTimeout(resolve, 30 + Math.random() * 300));
        if (round % 3 === 0) await etcd.compact().catch(() => {});
        if (round % 7 === 6) await etcd.kill().then(() => etcd.restart());
        else proxy.cut();
      }
    };
    await Promise.all([disturb(), ...Array.from({ length: 8 }, () => writeAtRandom(writer, end))]);
    await mirror.matches(etcd, 'stress/');
    await narrow.matches(etcd, 'stress/1');
    await until('the single key is right', () => single.content.get('') === mirror.content.get('10'));
    await healthy(store);
    assert.ok(mirror.puts > 200, `${mirror.puts} changes were seen`);
    assert.ok(store.status.reconnections > 3);
  } finally {
    await writer.close();
    await close();
  }
});

async function writeAtRandom(writer: Store, end: number): Promise<void> {
  while (Date.now() < end) {
    const key = `stress/${Math.floor(Math.random() * 200)}`;
    const work = Math.random() < 0.3 ? writer.remove(key) : writer.put(key, `${Math.random()}`);
    // The store is restarted now and then; what was not written is simply not there.
    await work.catch(() => {});
  }
}
