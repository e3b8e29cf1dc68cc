import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { Store } from '../../src/kvstore/store.ts';
import type { Cluster } from '../../src/mesh/cluster.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { configKey, configValue } from '../lab/values.ts';
import { Following, Opened, openTestStore, type Place, populated, synced } from './following.ts';

let near: Etcd;
let remote: Etcd;
let opened: Opened;
let following: Following;
before(async () => {
  [near, remote] = await Promise.all([Etcd.start(), Etcd.start()]);
});
after(() => Promise.all([near.close(), remote.close()]));
beforeEach(() => {
  opened = new Opened();
  following = new Following(opened);
  const { mesh } = following;
  const end = new AbortController();
  const running = mesh.run(end.signal);
  opened.atEnd(async () => {
    mesh.close();
    end.abort();
    await running;
  });
});
afterEach(async () => {
  await opened.close();
  await Promise.all([near, remote].map((etcd) => etcd.ctl('del', '--prefix', 'cilium/')));
});

const open = (place: Place): Store => opened.add(openTestStore(place, (store) => following.mesh.dataLost(store)));

function cluster(name: string): Cluster {
  const found = following.mesh.list().find((each) => each.cluster.name === name);
  if (found === undefined) throw new Error(`${name} is not followed`);
  return found.cluster;
}

const names = (): string =>
  following.mesh
    .list()
    .map(({ cluster: { name, kind } }) => `${name}:${kind}`)
    .join(' ');

test('the joined cluster, the ones of files and the ones in the cache are followed side by side', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  opened.add(await populated(near, { name: 'cached', id: 2, layout: 'cached' }));
  opened.add(await populated(remote, { name: 'file', id: 3 }));
  const { mesh, tables } = following;
  assert.deepEqual(mesh.missing(), ['nodes', 'endpoints', 'identities', 'services']);
  mesh.addRemote('file', open(remote));
  mesh.join(open(near), { name: 'own', id: 1 });
  assert.ok(mesh.discovering);
  await until('all are followed', () => names() === 'own:joined cached:cached file:remote');
  for (const name of ['own', 'cached', 'file']) await synced(cluster(name));
  assert.ok(!mesh.discovering);
  assert.ok(mesh.isSynced('endpoints'));
  assert.deepEqual(mesh.missing(), []);
  assert.equal(tables.nodes.size, 6);
  assert.equal(tables.identities.size, 9);
  assert.equal(tables.services.size, 3);
  assert.equal(tables.ipcache.size, 15);
});

test('a file of the joined cluster is ignored, also one that was there first', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  opened.add(await populated(remote, { name: 'own', id: 1 }));
  const { mesh } = following;
  mesh.addRemote('own', open(remote));
  await synced(cluster('own'));
  mesh.join(open(near), { name: 'own', id: 1 });
  await synced(cluster('own'));
  assert.equal(names(), 'own:joined');
  assert.equal(mesh.addRemote('own', open(remote)), false);
  mesh.removeRemote('own');
  assert.equal(names(), 'own:joined');
  await until('only facts of one are left', () => following.tables.ipcache.size === 5);
  assert.equal([...following.tables.ipcache.entries()].flatMap(({ others }) => others).length, 0);
});

test('the joined cluster takes its id from a remote one that was there first', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  opened.add(await populated(remote, { name: 'thief', id: 1 }));
  const { mesh } = following;
  mesh.addRemote('thief', open(remote));
  await synced(cluster('thief'));
  mesh.join(open(near), { name: 'own', id: 1 });
  await synced(cluster('own'));
  assert.match(cluster('thief').problem?.message ?? '', /id 1 of thief is assigned to the local cluster own/);
  assert.equal(cluster('thief').countOf('endpoints'), 0);
  assert.ok(!following.dump().some((line) => line.includes('thief')));
  await remote.put(configKey('thief'), configValue(9, 'direct'));
  await until('it has another id', () => cluster('thief').id === 9);
});

test('a cluster that moves to another store loses nothing, only what the new store does not have', async () => {
  const old = opened.add(await populated(near, { name: 'c', id: 5 }));
  const { mesh } = following;
  mesh.addRemote('c', open(near));
  await synced(cluster('c'));
  const before = following.dump();
  const fresh = opened.add(await populated(remote, { name: 'c', id: 5, withhold: ['endpoints'] }));
  await fresh.removePod('c-2');
  mesh.replaceStore('c', open(remote));
  await until('most kinds are listed', () => cluster('c').isSynced('nodes') && cluster('c').isSynced('services'));
  assert.deepEqual(following.dump(), before);
  await fresh.release('endpoints');
  await synced(cluster('c'));
  assert.deepEqual(following.vanished, ['10.5.1.2']);
  // The old one has no say any more.
  await old.removePod('c-1');
  await fresh.pod({ name: 'last', namespace: 'default', labels: { app: 'app-1' }, addresses: ['10.5.1.200'] });
  await until('the new store is followed', () => following.identityOf('10.5.1.200') !== undefined);
  assert.notEqual(following.identityOf('10.5.1.1'), undefined);
});

test('a cluster keeps its id while it moves, and goes wholly when it is removed before the new store answers', async () => {
  opened.add(await populated(near, { name: 'c', id: 5 }));
  opened.add(await populated(remote, { name: 'other', id: 5 }));
  const proxy = opened.add(await TcpProxy.start(near.endpoints[0] ?? ''));
  const { mesh } = following;
  mesh.addRemote('c', open(near));
  await synced(cluster('c'));
  const before = following.dump();
  mesh.addRemote('other', open(remote));
  await until('the other one is refused', () => cluster('other').problem !== undefined);
  proxy.refuse();
  mesh.replaceStore('c', open({ endpoints: [proxy.endpoint] }));
  await until('the new store is out of reach', () => /refused|reset|lost/i.test(cluster('c').waitingFor ?? ''));
  cluster('other').retry();
  assert.match(cluster('other').problem?.message ?? '', /already used by c/);
  assert.deepEqual(following.dump(), before);
  mesh.removeRemote('c');
  assert.ok(!following.dump().some((line) => line.includes('node c/')));
  // Its id is free at once.
  await synced(cluster('other'));
  assert.equal(following.tables.ipcache.size, 5);
});

test('a cluster that is in the cache and gets a file, or loses it, keeps its facts', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  opened.add(await populated(near, { name: 'c', id: 5, layout: 'cached' }));
  opened.add(await populated(remote, { name: 'c', id: 5 }));
  const { mesh } = following;
  mesh.join(open(near), { name: 'own', id: 1 });
  await until('it is followed', () => names() === 'own:joined c:cached');
  await synced(cluster('c'));
  await synced(cluster('own'));
  const before = following.dump();
  mesh.addRemote('c', open(remote));
  assert.equal(names(), 'own:joined c:remote');
  await synced(cluster('c'));
  mesh.removeRemote('c');
  assert.equal(names(), 'own:joined c:cached');
  await synced(cluster('c'));
  assert.deepEqual(following.dump(), before);
  assert.deepEqual(following.vanished, []);
});

test('a cached cluster that is withdrawn goes after the grace, and stays when it comes back before', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  opened.add(await populated(near, { name: 'c', id: 5, layout: 'cached' }));
  opened.add(await populated(near, { name: 'd', id: 6, layout: 'cached' }));
  const { mesh } = following;
  mesh.join(open(near), { name: 'own', id: 1 });
  await until('they are followed', () => names() === 'own:joined c:cached d:cached');
  for (const name of ['own', 'c', 'd']) await synced(cluster(name));
  await near.ctl('del', configKey('c'));
  await near.ctl('del', configKey('d'));
  await near.put(configKey('d'), configValue(6, 'cached'));
  // Within the grace nothing happened yet.
  assert.ok(following.dump().includes('node c/n1'));
  await until('it is gone', () => names() === 'own:joined d:cached');
  assert.ok(!following.dump().some((line) => line.includes('node c/')));
  assert.ok(!following.vanished.some((name) => name.startsWith('d/') || name.startsWith('10.6.')));
});

test('a joined store that comes back empty keeps the cached clusters until it is complete, however long that takes', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  const source = opened.add(await populated(near, { name: 'c', id: 5, layout: 'cached' }));
  const { mesh } = following;
  mesh.join(open(near), { name: 'own', id: 1 });
  await until('it is followed', () => names() === 'own:joined c:cached');
  for (const name of ['own', 'c']) await synced(cluster(name));
  const before = following.dump();
  source.silence();
  await near.reset();
  await until('the loss is noticed', () => !cluster('own').synced && !mesh.discovering);
  // Longer than the grace.
  const since = Date.now();
  await until('time passes', () => Date.now() - since > 1500);
  assert.deepEqual(following.dump(), before);
  opened.add(await populated(near, { name: 'c', id: 5, layout: 'cached' }));
  opened.add(await populated(near, { name: 'own', id: 1 }));
  for (const name of ['own', 'c']) await synced(cluster(name));
  assert.deepEqual(following.dump(), before);
  assert.deepEqual(following.vanished, []);
});

test('a machine that is registered in another cluster leaves the former one', async () => {
  opened.add(await populated(near, { name: 'own', id: 1 }));
  opened.add(await populated(near, { name: 'next', id: 2 }));
  const { mesh } = following;
  const store = open(near);
  mesh.join(store, { name: 'own', id: 1 });
  await synced(cluster('own'));
  mesh.join(store, { name: 'next', id: 2 });
  assert.equal(names(), 'next:joined');
  await synced(cluster('next'));
  assert.ok(!following.dump().some((line) => line.includes('node own/')));
});
