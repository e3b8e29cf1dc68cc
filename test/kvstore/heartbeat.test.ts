import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { connected, healthy, Mirror, QUICK, trouble } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

const timing = { ...QUICK, checkMs: 200, heartbeatLimitMs: 1500 };
const open = (meshClient: boolean) =>
  openStore({ etcd: async () => ({ endpoints: etcd.endpoints }), timing, meshClient });

test('a heartbeat that never comes, or stops, shows as a trouble and leads to another connect; facts stay', async () => {
  await etcd.put('hb/a', '1');
  const store = open(true);
  const mirror = new Mirror();
  const watch = store.watchPrefix('hb/', mirror);
  let beats: NodeJS.Timeout | undefined;
  try {
    await connected(store);
    assert.equal(store.status.lastHeartbeat, undefined);
    await trouble(store, 'KVS-HEARTBEAT');
    await until('it connects again', () => store.status.reconnections > 0);
    assert.equal(mirror.content.get('a'), '1');
    assert.equal(watch.lists, 1);
    assert.equal(store.status.troubles[0]?.code, 'KVS-HEARTBEAT', 'a new connection alone is no heartbeat');
    beats = setInterval(() => void etcd.put('cilium/.heartbeat', new Date().toISOString()).catch(() => {}), 300);
    await healthy(store);
    assert.ok(Date.now() - (store.status.lastHeartbeat ?? 0) < 5000);
    const { reconnections } = store.status;
    const end = Date.now() + 3000;
    await until('two limits are over', () => Date.now() > end);
    assert.equal(store.status.reconnections, reconnections);
    clearInterval(beats);
    await trouble(store, 'KVS-HEARTBEAT');
    const found = store.status.troubles.find(({ subject }) => subject === 'heartbeat');
    assert.equal(found?.since, store.status.lastHeartbeat);
    assert.match(store.status.lastFailure?.message ?? '', /no heartbeat for \d+ s/);
  } finally {
    clearInterval(beats);
    await store.close();
  }
});

test('a stale heartbeat that a list finds is no heartbeat', async () => {
  await etcd.put('cilium/.heartbeat', '2001-01-01T00:00:00Z');
  const store = open(true);
  try {
    await trouble(store, 'KVS-HEARTBEAT');
    assert.equal(store.status.lastHeartbeat, undefined);
  } finally {
    await store.close();
  }
});

test("a cluster's own store needs no heartbeat", async () => {
  const store = open(false);
  try {
    await connected(store);
    const end = Date.now() + 3000;
    await until('two limits are over', () => Date.now() > end);
    assert.deepEqual(store.status.troubles, []);
    assert.equal(store.status.reconnections, 0);
  } finally {
    await store.close();
  }
});
