import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { canaryKey, configKey, configValue, now } from '../lab/values.ts';
import { Following, Opened, openTestStore, populated, synced } from './following.ts';

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

const lines = (kind: string): string[] => following.dump().filter((line) => line.startsWith(`${kind} `));
const slice = (name: string, service = 'web') => ({
  ...{ namespace: 'default', name, service, ports: [{ name: 'http', port: 80 }] },
  endpoints: [{ addresses: ['10.5.1.1'] }],
});

test('slices of a cluster that writes them are read beside its services, from the cluster or from its copy', async () => {
  for (const layout of ['direct', 'cached'] as const) {
    const made = await populated(etcd, { name: layout, id: 5, layout, slices: 'services-and-endpointslices' });
    const source = opened.add(made);
    await source.slice(slice('web-1'));
    await source.slice(slice('web-2'));
    const cluster = following.follow(etcd, layout, layout === 'direct' ? 'remote' : 'cached');
    await synced(cluster);
    assert.equal(cluster.countOf('slices'), 2);
    assert.deepEqual(lines('slice'), [`slice ${layout}/default/web web-1`, `slice ${layout}/default/web web-2`]);
    assert.equal(lines('service').length, 1);
    await source.slice(slice('web-2', 'other'));
    await until('it belongs to another service', () => lines('slice').includes(`slice ${layout}/default/other web-2`));
    assert.equal(following.tables.serviceSlices.of(`${layout}/default/web`).length, 1);
    await source.unset('slices', 'default/web-1');
    await until('it is gone', () => cluster.countOf('slices') === 1);
    cluster.close({ drain: true });
    assert.deepEqual(following.dump(), []);
    following.ids.release(layout);
  }
});

test('a cluster that writes slices alone is complete without services, and not before its slices are', async () => {
  const options = { name: 'c', id: 5, slices: 'endpointslices-only', withhold: ['slices'] } as const;
  const source = opened.add(await populated(etcd, options));
  await source.slice(slice('web-1'));
  const cluster = following.follow(etcd, 'c');
  await until('it waits', () => cluster.waitingFor?.includes(canaryKey('c', 'direct', 'slices')) === true);
  assert.deepEqual([cluster.synced, cluster.isSynced('services'), cluster.countOf('services')], [false, true, 0]);
  await source.release('slices');
  await synced(cluster);
  assert.deepEqual([cluster.countOf('slices'), lines('service')], [1, []]);
});

test('a cluster that goes over to slices, and back, leaves nothing of what it no longer writes', async () => {
  const source = opened.add(await populated(etcd, { name: 'c', id: 5 }));
  await source.slice(slice('web-1'));
  const cluster = following.follow(etcd, 'c');
  await synced(cluster);
  assert.deepEqual([cluster.countOf('services'), cluster.countOf('slices')], [1, 0], 'not announced, not read');
  await etcd.put(canaryKey('c', 'direct', 'slices'), now());
  await etcd.put(configKey('c'), configValue(5, 'direct', 255, 'services-and-endpointslices'));
  await until('both are read', () => cluster.countOf('slices') === 1 && cluster.synced);
  assert.equal(cluster.countOf('services'), 1);
  await etcd.put(configKey('c'), configValue(5, 'direct', 255, 'endpointslices-only'));
  await until('services are gone', () => cluster.countOf('services') === 0 && cluster.synced);
  assert.equal(cluster.countOf('slices'), 1);
  await etcd.put(configKey('c'), configValue(5, 'direct'));
  await until('it is as before', () => cluster.countOf('services') === 1 && cluster.synced);
  assert.equal(cluster.countOf('slices'), 0);
  assert.ok(!following.vanished.some((name) => !name.includes('default/')), 'nothing else was taken away in between');
});

test('an export mode that nobody knows is refused with its name; what was read stays', async () => {
  opened.add(await populated(etcd, { name: 'c', id: 5 }));
  const cluster = following.follow(etcd, 'c');
  await synced(cluster);
  const before = following.dump();
  const config = { id: 5, capabilities: { syncedCanaries: true, endpointSlicesExportMode: 'slices-v9' } };
  await etcd.put(configKey('c'), JSON.stringify(config));
  await until('it is refused', () => cluster.problem !== undefined);
  assert.equal(cluster.problem?.code, 'MSH-CONFIG');
  assert.match(cluster.problem?.message ?? '', /endpointSlicesExportMode "slices-v9" is not known/);
  assert.deepEqual(following.dump(), before);
});

test('a copy in the joined store whose configuration is refused is shown with its problem, not passed over', async () => {
  opened.add(await populated(etcd, { name: 'own', id: 1 }));
  const config = { id: 9, capabilities: { syncedCanaries: true, cached: true, endpointSlicesExportMode: 'slices-v9' } };
  opened.add(await populated(etcd, { name: 'odd', id: 9, layout: 'cached', config: JSON.stringify(config) }));
  const { mesh } = following;
  const store = opened.add(openTestStore(etcd, (each) => mesh.dataLost(each)));
  opened.atEnd(() => mesh.close());
  mesh.join(store, { name: 'own', id: 1 });
  const odd = () => mesh.list().find(({ cluster }) => cluster.name === 'odd')?.cluster;
  await until('its problem is told', () => odd()?.problem !== undefined);
  assert.match(odd()?.problem?.message ?? '', /"slices-v9" is not known/);
});
