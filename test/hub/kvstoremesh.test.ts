import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { contentOf } from '../kvstore/mirror.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { announcementsOf, CacheLab, expectedCache, furnish } from './cache-lab.ts';

let lab: CacheLab;
const done: CacheLab[] = [];

async function start(options: Parameters<typeof CacheLab.start>[0] = {}): Promise<CacheLab> {
  lab = await CacheLab.start(options);
  done.push(lab);
  return lab;
}

afterEach(async () => {
  for (const each of done.splice(0)) await each.close();
});

test('the cache holds what the specification says, byte for byte, and nothing else', async () => {
  const { etcd } = await start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  await alpha.store.put('cilium/state/identities/v1/value/k8s:app=web;/10.0.0.1', '458752');
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha');
  const cache = await lab.cache();
  const expected = await expectedCache(source, 'alpha');
  assert.equal(expected.size, 8);
  for (const [key, value] of expected) assert.equal(cache.get(key), value, key);
  assert.deepEqual([...cache.keys()].sort(), [...expected.keys(), ...announcementsOf('alpha')].sort());
  assert.equal(
    cache.get('cilium/cluster-config/alpha'),
    '{"id":7,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}',
  );
  for (const key of announcementsOf('alpha').slice(1))
    assert.match(cache.get(key) ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, key);
  const leases = await lab.store.readPrefix('cilium/');
  assert(
    leases.entries.every(({ lease }) => lease !== '0'),
    'every key is under a lease',
  );

  await alpha.pod({ name: 'web-1', namespace: 'default', labels: { app: 'shop' }, addresses: ['10.7.0.9'] });
  await alpha.removePod('db-1');
  await until('changes arrive', async () => {
    const [now, then] = [await lab.cache(), await expectedCache(source, 'alpha')];
    return [...then].every(([key, value]) => now.get(key) === value) && now.size === then.size + 6;
  });
  assert.equal((await contentOf(etcd, 'cilium/cache/identities/v1/alpha/value/')).size, 0);
});

test('a kind is copied only when its canary is there, and announced only when all of it is stored', async () => {
  await start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7, withhold: ['endpoints'] });
  await furnish(alpha, '7');
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  const nodes = 'cilium/synced/alpha/cilium/cache/nodes/v1';
  await until('the nodes are announced', async () => (await lab.store.get(nodes)) !== undefined);
  const [alphaNow] = mesh.clusters;
  await until('it tells what is missing', () => alphaNow?.cluster.missingCanaries.length === 1);
  assert.deepEqual(alphaNow?.cluster.missingCanaries, ['cilium/synced/alpha/cilium/state/ip/v1']);
  assert.equal((await lab.store.list('cilium/cache/ip/')).length, 0);
  assert.equal(await lab.store.get('cilium/synced/alpha/cilium/cache/ip/v1'), undefined);
  assert.equal(mesh.readiness.ready, false);
  await alpha.release('endpoints');
  await lab.ready(mesh, 'alpha');
  assert.equal((await lab.store.list('cilium/cache/ip/')).length, 4);
  assert.equal(mesh.readiness.ready, true);
});

test('a cluster that is away, or lost its data, keeps what was copied; what vanished goes with the complete list', async () => {
  await start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha');
  const before = await lab.cache();
  await source.stop();
  await until('it is noticed', () => mesh.clusters[0]?.cluster.store.status.state === 'failed', 30_000);
  assert.deepEqual(await lab.cache(), before);
  // Another data set, filled step by step: first without canaries and with half of the facts.
  alpha.silence();
  await source.reset();
  const again = lab.cluster(source, {
    name: 'alpha',
    id: 7,
    withhold: ['nodes', 'identities', 'endpoints', 'services'],
  });
  await again.node({ name: 'node-2', ipv4: '192.168.7.2' });
  await again.publish();
  await until('it is connected again', () => mesh.clusters[0]?.cluster.store.status.state === 'connected', 30_000);
  await until('the canaries are missed', () => mesh.clusters[0]?.cluster.missingCanaries.length === 4);
  assert.deepEqual(await lab.cache(), before);
  await again.release('nodes');
  await until('the nodes are those of now', async () => {
    const nodes = await lab.store.list('cilium/cache/nodes/v1/alpha/');
    return nodes.length === 1 && nodes[0]?.key === 'node-2';
  });
  assert.equal((await lab.store.list('cilium/cache/ip/v1/alpha/')).length, 4, 'other kinds wait for their canaries');
  for (const kind of ['identities', 'endpoints', 'services'] as const) await again.release(kind);
  await until('all is as it is now', async () => (await lab.store.list('cilium/cache/')).length === 1);
});

test('compaction while the line is cut loses no change', async () => {
  await start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  const proxy = await TcpProxy.start(source.endpoints[0] ?? '');
  try {
    await lab.connect('alpha', [proxy.endpoint]);
    const mesh = await lab.lead();
    await lab.ready(mesh, 'alpha');
    proxy.refuse();
    await until('it is noticed', () => mesh.clusters[0]?.cluster.store.status.state === 'failed', 30_000);
    await alpha.removePod('db-1');
    await alpha.pod({ name: 'new', namespace: 'default', labels: { app: 'new' }, addresses: ['10.7.0.77'] });
    await source.compact();
    proxy.heal();
    await until(
      'the cache is that of now',
      async () => {
        const [now, then] = [await lab.cache(), await expectedCache(source, 'alpha')];
        return [...then].every(([key, value]) => now.get(key) === value) && now.size === then.size + 6;
      },
      30_000,
    );
  } finally {
    await proxy.close();
  }
});

test('a disconnected cluster: its configuration goes at once, its cache after the grace, and nothing of its neighbor', async () => {
  await start({ timing: { graceMs: 1500 } });
  const names = ['alpha', 'alpha2'];
  const [source, neighbor] = [await lab.source(), await lab.source()];
  for (const [index, name] of names.entries()) {
    const etcd = index === 0 ? source : neighbor;
    const cluster = lab.cluster(etcd, { name, id: 7 + index });
    await furnish(cluster, String(7 + index));
    await cluster.publish();
    await lab.connect(name, etcd.endpoints);
  }
  const mesh = await lab.lead();
  await lab.ready(mesh, ...names);
  await lab.disconnect('alpha');
  await until(
    'the configuration is gone',
    async () => (await lab.store.get('cilium/cluster-config/alpha')) === undefined,
  );
  const left = await lab.cache();
  assert(left.has('cilium/cache/nodes/v1/alpha/node-1'), 'readers have the time to notice');
  assert(left.has('cilium/synced/alpha/cilium/cache/nodes/v1'));
  await until('the cache is gone', async () => {
    const keys = [...(await lab.cache()).keys()];
    return !keys.some((key) => key.includes('/alpha/'));
  });
  const cache = await lab.cache();
  for (const [key, value] of await expectedCache(neighbor, 'alpha2')) assert.equal(cache.get(key), value);
  for (const key of announcementsOf('alpha2')) assert(cache.has(key), key);
  // Its id is free now.
  const beta = lab.cluster(source, { name: 'beta', id: 7 });
  await beta.publish();
  await lab.connect('beta', source.endpoints);
  await lab.ready(mesh, 'beta');
});

test('connecting again within the grace keeps the cache', async () => {
  await start({ timing: { graceMs: 3000 } });
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha');
  const watched: string[] = [];
  const watch = lab.store.watchPrefix('cilium/cache/', {
    listing() {},
    put() {},
    remove: (key) => watched.push(key),
    listed() {},
  });
  await until('it is watched', () => watch.synced);
  await lab.disconnect('alpha');
  await until(
    'the configuration is gone',
    async () => (await lab.store.get('cilium/cluster-config/alpha')) === undefined,
  );
  await lab.connect('alpha', source.endpoints);
  await lab.ready(mesh, 'alpha');
  await until('the removal is given up', () => mesh.removing.length === 0);
  assert(await lab.store.get('cilium/cluster-config/alpha'));
  assert.deepEqual(watched, []);
});

test('a source that is itself a cache is read as one', async () => {
  await start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7, layout: 'cached', heartbeatMs: 500 });
  await furnish(alpha, '7');
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha');
  const [here, there] = [await contentOf(lab.etcd, 'cilium/cache/'), await contentOf(source, 'cilium/cache/')];
  assert.deepEqual([...here].sort(), [...there].sort());
  assert.equal(here.size, 8);
});
