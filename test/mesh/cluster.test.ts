import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { canaryKey, configKey, configValue, factKey, nodeValue } from '../lab/values.ts';
import { Following, Opened, populated, synced } from './following.ts';

let etcd: Etcd;
let opened: Opened;
let following: Following;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(() => {
  opened = new Opened();
  following = new Following(opened);
});
afterEach(async () => {
  await opened.close();
  await etcd.ctl('del', '--prefix', 'cilium/');
});

const messageIs = (text: RegExp, get: () => string | undefined): Promise<void> =>
  until(`${text} is said`, () => text.test(get() ?? ''));

test('without a configuration nothing is read, and the key that it waits for is named', async () => {
  await etcd.put(factKey('c', 'direct', 'endpoints', '10.5.1.1'), '{"IP":"10.5.1.1","ID":6}');
  const cluster = following.follow(etcd, 'c');
  await messageIs(/waiting for key cilium\/cluster-config\/c/, () => cluster.waitingFor);
  assert.equal(following.tables.ipcache.size, 0);
  opened.add(await populated(etcd, { name: 'c', id: 5 }));
  await synced(cluster);
  assert.equal(cluster.id, 5);
  assert.equal(cluster.waitingFor, undefined);
  assert.ok(cluster.ready);
  assert.deepEqual(
    ['nodes', 'endpoints', 'identities', 'services'].map((kind) => cluster.countOf(kind as 'nodes')),
    [2, 3, 3, 1],
  );
});

test('an id that cannot be used is refused with its reason, and taken when it is corrected', async () => {
  const cases: [string, RegExp][] = [
    ['{"id":0,"capabilities":{}}', /cluster id is 0/],
    ['{"capabilities":{}}', /cluster id is 0 or missing/],
    [configValue(300, 'direct'), /ClusterID > 255 is not supported/],
    ['{"id":5,"capabilities":{"maxConnectedClusters":100}}', /neither 255 nor 511/],
    ['garbage', /not JSON/],
    [configValue(6, 'direct'), /its id is 6, but we were registered with id 5/],
  ];
  await etcd.put(configKey('c'), 'garbage');
  const own = following.follow(etcd, 'c', 'joined', 5);
  for (const [value, reason] of cases) {
    await etcd.put(configKey('c'), value);
    await messageIs(reason, () => own.problem?.message);
    assert.match(own.waitingFor ?? '', reason);
    assert.equal(own.synced, false);
  }
  opened.add(await populated(etcd, { name: 'c', id: 5 }));
  await synced(own);
  assert.equal(own.problem, undefined);
});

test('an id that another cluster holds is refused; the holder is not affected; it is taken when it is free', async () => {
  const second = await Etcd.start();
  opened.add(second);
  opened.add(await populated(etcd, { name: 'a', id: 5 }));
  opened.add(await populated(second, { name: 'b', id: 5 }));
  const a = following.follow(etcd, 'a');
  await synced(a);
  const before = following.dump();
  const b = following.follow(second, 'b');
  await messageIs(/id 5 of b is already used by a/, () => b.problem?.message);
  b.retry();
  assert.match(b.problem?.message ?? '', /already used by a/);
  assert.deepEqual(following.dump(), before);
  assert.ok(a.ready);
  a.close({ drain: true });
  b.retry();
  await synced(b);
  assert.equal(b.countOf('nodes'), 2);
  assert.ok(following.dump().includes('node b/n1'));
  assert.ok(!following.dump().includes('node a/n1'));
});

test('an id that changed takes the old facts away, first and without a trace, and brings the new ones', async () => {
  const former = opened.add(await populated(etcd, { name: 'c', id: 5 }));
  const cluster = following.follow(etcd, 'c');
  await synced(cluster);
  await former.vanish();
  await etcd.ctl('del', '--prefix', 'cilium/');
  opened.add(await populated(etcd, { name: 'c', id: 6 }));
  await until('the new id is followed', () => cluster.id === 6 && cluster.synced);
  assert.equal(following.identityOf('10.5.1.1'), undefined);
  assert.equal(cluster.countOf('endpoints'), 3);
  assert.equal(following.tables.identities.size, 3);
  assert.equal(following.tables.nodes.size, 2);
  assert.equal(following.tables.ipcache.size, 3 + 2);
});

test('a changed configuration that is refused keeps the facts in force', async () => {
  opened.add(await populated(etcd, { name: 'c', id: 5 }));
  const cluster = following.follow(etcd, 'c');
  await synced(cluster);
  const before = following.dump();
  await etcd.put(configKey('c'), configValue(0, 'direct'));
  await until('it is refused', () => cluster.problem !== undefined);
  assert.equal(cluster.ready, false);
  assert.deepEqual(following.dump(), before);
  await etcd.put(configKey('c'), configValue(5, 'direct'));
  await until('it is ready again', () => cluster.ready);
  assert.deepEqual(following.vanished, []);
});

test('a kind without its canary is not read; the others are; the missing keys are named', async () => {
  const source = opened.add(await populated(etcd, { name: 'c', id: 5, withhold: ['endpoints', 'services'] }));
  const cluster = following.follow(etcd, 'c');
  await until('two kinds are listed', () => cluster.isSynced('nodes') && cluster.isSynced('identities'));
  assert.equal(cluster.countOf('endpoints'), 0);
  assert.equal(cluster.countOf('services'), 0);
  assert.match(cluster.waitingFor ?? '', /cilium\/synced\/c\/cilium\/state\/ip\/v1, .*services\/v1: the store is not/);
  await source.release('endpoints');
  await until('addresses are listed', () => cluster.isSynced('endpoints'));
  assert.equal(cluster.countOf('endpoints'), 3);
  assert.equal(cluster.synced, false);
  await source.release('services');
  await synced(cluster);
});

test('a cluster that announces no canaries is read at once', async () => {
  opened.add(
    await populated(etcd, {
      name: 'c',
      id: 5,
      config: '{"id":5,"capabilities":{}}',
      withhold: ['nodes', 'endpoints', 'identities', 'services'],
    }),
  );
  await synced(following.follow(etcd, 'c'));
  assert.equal(following.identityOf('10.5.1.1'), 5 * 65_536 + 1000);
});

test('the joined cluster is followed without a configuration of its own, as older ones are', async () => {
  opened.add(await populated(etcd, { name: 'c', id: 5, config: '' }));
  const cluster = following.follow(etcd, 'c', 'joined', 5);
  await synced(cluster);
  assert.equal(cluster.countOf('endpoints'), 3);
});

test("the cache of a cluster is read from the cache prefixes, beside the facts of the store's own cluster", async () => {
  opened.add(await populated(etcd, { name: 'own', id: 1 }));
  opened.add(await populated(etcd, { name: 'far', id: 5, layout: 'cached' }));
  const own = following.follow(etcd, 'own', 'joined', 1);
  const far = following.follow(etcd, 'far', 'cached');
  await synced(own);
  await synced(far);
  assert.equal(own.countOf('endpoints'), 3);
  assert.equal(far.countOf('endpoints'), 3);
  assert.equal(following.identityOf('10.5.1.1'), 5 * 65_536 + 1000);
  // What is no longer cached would be read from the prefixes of the own cluster.
  await etcd.put(configKey('far'), configValue(5, 'direct'));
  await until('it is refused', () => /no longer announced as cached/.test(far.problem?.message ?? ''));
  assert.equal(far.countOf('endpoints'), 3);
  assert.equal(own.countOf('endpoints'), 3);
});

for (const sameClusterId of [false, true]) {
  test(`a store that comes back empty${sameClusterId ? ' with the same etcd id' : ''}: facts stay until it is complete, what vanished goes, nothing is gone in between`, async () => {
    const source = opened.add(await populated(etcd, { name: 'c', id: 5 }));
    const cluster = following.follow(etcd, 'c');
    await synced(cluster);
    const before = following.dump();
    source.silence();
    await etcd.reset({ sameClusterId });
    await until('the loss is noticed', () => !cluster.isSynced('nodes'));
    // Filled again without a pod, a node and an identity, in pieces, the canaries last.
    const filled = opened.add(
      await populated(etcd, { name: 'c', id: 5, withhold: ['nodes', 'endpoints', 'identities', 'services'] }),
    );
    await filled.removePod('c-3');
    await filled.unset('identities', String(5 * 65_536 + 1002));
    await filled.unset('nodes', 'n2');
    await filled.pod({ name: 'new', namespace: 'default', labels: { app: 'new' }, addresses: ['10.5.1.9'] });
    await until('the store is reached again', () => /the store is not complete yet/.test(cluster.waitingFor ?? ''));
    assert.deepEqual(following.dump(), before);
    for (const kind of ['identities', 'nodes', 'services', 'endpoints'] as const) await filled.release(kind);
    await synced(cluster);
    assert.deepEqual(following.vanished.sort(), ['10.5.1.3', '172.16.5.2', String(5 * 65_536 + 1002), 'c/n2']);
    assert.notEqual(following.identityOf('10.5.1.9'), undefined);
    assert.equal(cluster.countOf('endpoints'), 3);
  });
}

test('a store that is away keeps everything, and what changed meanwhile is caught up', async () => {
  const source = opened.add(await populated(etcd, { name: 'c', id: 5 }));
  const cluster = following.follow(etcd, 'c');
  await synced(cluster);
  const before = following.dump();
  await etcd.kill();
  await until('it is away', () => !cluster.ready);
  assert.ok(cluster.synced);
  assert.deepEqual(following.dump(), before);
  await etcd.restart();
  await source.removePod('c-2');
  await source.pod({ name: 'c-4', namespace: 'default', labels: { app: 'app-1' }, addresses: ['10.5.1.4'] });
  await until('it is caught up', () => cluster.ready && following.identityOf('10.5.1.4') !== undefined);
  assert.deepEqual(following.vanished, ['10.5.1.2']);
});

test('a list that is forced while the canaries are away removes nothing before they are back', async () => {
  const source = opened.add(await populated(etcd, { name: 'c', id: 5 }));
  const proxy = opened.add(await TcpProxy.start(etcd.endpoints[0] ?? ''));
  const cluster = following.follow({ endpoints: [proxy.endpoint] }, 'c');
  await synced(cluster);
  const before = following.dump();
  proxy.refuse();
  await until('it is away', () => !cluster.ready);
  // The producer's lease runs out while we are away, and the history of it is gone.
  await source.vanish();
  await etcd.put(configKey('c'), configValue(5, 'direct'));
  await etcd.compact();
  proxy.heal();
  await until('it is listed again', () => following.lists() >= 8);
  assert.deepEqual(following.dump(), before);
  await source.unset('services', 'default/web');
  await source.publish();
  await until('what vanished is gone', () => cluster.countOf('services') === 0);
  assert.deepEqual(following.vanished, ['c/default/web']);
});

test('closing leaves the facts, or takes all of them away when it drains', async () => {
  opened.add(await populated(etcd, { name: 'c', id: 5 }));
  const first = following.follow(etcd, 'c');
  await synced(first);
  await etcd.put(factKey('c', 'direct', 'nodes', 'bad'), 'garbage');
  await until('a value is refused', () => following.refused.length === 1);
  const before = following.dump();
  first.close({ drain: false });
  assert.deepEqual(following.dump(), before);
  const second = following.follow(etcd, 'c');
  await synced(second);
  assert.deepEqual(following.dump(), before);
  assert.deepEqual(following.vanished, []);
  assert.equal(following.refused.length, 1);
  second.close({ drain: true });
  assert.deepEqual(following.dump(), []);
  assert.equal(following.tables.quarantine.size, 0);
  await etcd.put(factKey('c', 'direct', 'nodes', 'late'), nodeValue({ name: 'late', cluster: 'c', clusterId: 5 }));
  await etcd.put(canaryKey('c', 'direct', 'nodes'), 'now');
  assert.deepEqual(following.dump(), []);
});
