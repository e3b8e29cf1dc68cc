import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parsePrefix } from '../../src/core/ip.ts';
import { findOverlaps, type OwnedRange } from '../../src/hub/mesh/range-overlaps.ts';
import { Readiness } from '../../src/hub/mesh/readiness.ts';
import { decodeRemoteConfig, followedKinds } from '../../src/hub/mesh/remote-config.ts';
import { RequestLimiter } from '../../src/hub/mesh/request-limiter.ts';
import { until } from '../lab/namespace.ts';
import { Following, Opened, synced } from '../mesh/following.ts';
import { announcementsOf, CacheLab } from './cache-lab.ts';

test('a configuration is copied as it is, in Go’s order, with the two booleans set', () => {
  const copied = (text: string): string => decodeRemoteConfig(Buffer.from(text)).cachedText;
  assert.equal(copied('{"id":7,"capabilities":{}}'), '{"id":7,"capabilities":{"syncedCanaries":true,"cached":true}}');
  assert.equal(
    copied(
      '{"capabilities":{"endpointSlicesExportMode":"endpointslices-only","SERVICEEXPORTSENABLED":false,"maxConnectedClusters":255,"new":[1]},"ID":7,"more":"<"}',
    ),
    '{"id":7,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,"endpointSlicesExportMode":"endpointslices-only","new":[1]},"more":"\\u003c"}',
  );
  for (const bad of [
    '{"id":0}',
    '{"id":256}',
    '[]',
    '{"id":7,"capabilities":3}',
    '{"id":7,"capabilities":{"endpointSlicesExportMode":"x"}}',
    `{"id":7,"x":"${'y'.repeat(20_000)}"}`,
  ])
    assert.throws(() => decodeRemoteConfig(Buffer.from(bad)), bad.slice(0, 30));
  const all = (capabilities: object) =>
    followedKinds(decodeRemoteConfig(Buffer.from(JSON.stringify({ id: 7, capabilities }))));
  const kinds = (capabilities: object): number => all(capabilities).length;
  assert.deepEqual(
    [kinds({}), kinds({ serviceExportsEnabled: null }), kinds({ serviceExportsEnabled: false })],
    [4, 4, 5],
  );
  assert.deepEqual(all({ endpointSlicesExportMode: 'services-and-endpointslices' }), [
    'identities',
    'nodes',
    'ip',
    'services',
    'endpointslices',
  ]);
  // Such a cluster writes no canary of services either.
  assert.deepEqual(all({ endpointSlicesExportMode: 'endpointslices-only' }), [
    'identities',
    'nodes',
    'ip',
    'endpointslices',
  ]);
});

test('ready: all are copied, or cannot be reached for 15 s; one that does not complete holds it up for ten minutes', () => {
  let now = 0;
  const readiness = new Readiness({ perClusterReadyMs: 15_000, globalReadyMs: 600_000 }, () => now);
  assert.equal(readiness.ready, true);
  for (const name of ['good', 'away', 'stuck']) readiness.add(name);
  readiness.synced('good');
  now = 14_000;
  readiness.check('away', false);
  assert.deepEqual(readiness.waitingFor, ['away', 'stuck']);
  now = 16_000;
  readiness.check('away', false);
  readiness.check('stuck', true);
  assert.deepEqual(readiness.waitingFor, ['stuck']);
  assert.equal(readiness.bootstrapSeconds, undefined);
  now = 600_001;
  assert.equal(readiness.ready, true);
  assert.equal(readiness.bootstrapSeconds, 600.001);
});

test('overlaps are found between owners, however the ranges lie', () => {
  const range = (text: string, owner: string): OwnedRange => {
    const prefix = parsePrefix(text);
    assert(prefix);
    return { prefix, owner, what: `${owner} ${text}` };
  };
  const pairs = (...ranges: OwnedRange[]): string[] =>
    findOverlaps(ranges, 100).map(({ a, b }) => `${a.what} - ${b.what}`);
  assert.deepEqual(pairs(range('10.1.0.0/16', 'a'), range('10.2.0.0/16', 'b'), range('fd00::/8', 'c')), []);
  assert.deepEqual(pairs(range('10.1.1.0/24', 'a'), range('10.0.0.0/8', 'a'), range('10.1.1.128/25', 'b')), [
    'a 10.0.0.0/8 - b 10.1.1.128/25',
    'a 10.1.1.0/24 - b 10.1.1.128/25',
  ]);
  assert.deepEqual(pairs(range('10.1.0.0/16', 'a'), range('10.1.0.0/16', 'b'), range('10.1.0.0/16', 'b')).length, 2);
  assert.equal(
    findOverlaps(
      Array.from({ length: 50 }, (_, i) => range('0.0.0.0/0', `o${i}`)),
      10,
    ).length,
    10,
  );
});

test('requests keep their order, their number at once, and their rate', async () => {
  const limiter = new RequestLimiter({ inFlight: 2, rate: () => 50 });
  const order: number[] = [];
  let running = 0;
  let most = 0;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: 80 }, (_, index) =>
      limiter
        .run(async () => {
          most = Math.max(most, ++running);
          order.push(index);
          await new Promise((resolve) => setImmediate(resolve));
          running--;
          if (index === 3) throw new Error('one fails');
        })
        .catch(() => {}),
    ),
  );
  assert.deepEqual(
    order,
    Array.from({ length: 80 }, (_, index) => index),
  );
  assert.equal(most, 2);
  // Fifty at once, the others at fifty a second.
  const ms = performance.now() - began;
  assert(ms > 550, `80 in ${ms} ms`);
});

test('service exports and endpoint slices of newer clusters are copied, bytes that are no text as well', async () => {
  const lab = await CacheLab.start();
  try {
    const source = await lab.source();
    const capabilities = {
      ...{ syncedCanaries: true, maxConnectedClusters: 255, serviceExportsEnabled: true },
      endpointSlicesExportMode: 'services-and-endpointslices',
    };
    const alpha = lab.cluster(source, { name: 'alpha', id: 7, config: JSON.stringify({ id: 7, capabilities }) });
    await alpha.publish();
    const slice = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 0xfe, 0x80]);
    await alpha.store.put('cilium/state/endpointslices/v1/alpha/default/web-1', slice);
    await alpha.store.put('cilium/state/serviceexports/v1/alpha/default/web', '{"name":"web"}');
    await lab.connect('alpha', source.endpoints);
    const mesh = await lab.lead();
    const missing = (): number => mesh.clusters[0]?.cluster.missingCanaries.length ?? 0;
    await until('their canaries are waited for', () => missing() === 2);
    for (const kind of ['serviceexports', 'endpointslices'])
      await alpha.store.put(`cilium/synced/alpha/cilium/state/${kind}/v1`, 'now');
    await lab.ready(mesh, 'alpha');
    const copied = await lab.store.get('cilium/cache/endpointslices/v1/alpha/default/web-1');
    assert.deepEqual(copied?.value, slice);
    assert.equal(
      (await lab.store.get('cilium/cache/serviceexports/v1/alpha/default/web'))?.value.toString(),
      '{"name":"web"}',
    );
    const cache = await lab.cache();
    for (const key of [...announcementsOf('alpha'), 'cilium/synced/alpha/cilium/cache/endpointslices/v1'])
      assert(cache.has(key), key);
  } finally {
    await lab.close();
  }
});

test('a cluster that writes endpoint slices alone is complete without services, in the cache as well', async () => {
  const opened = new Opened();
  const lab = await CacheLab.start();
  try {
    const source = await lab.source();
    const alpha = lab.cluster(source, { name: 'alpha', id: 7, slices: 'endpointslices-only' });
    await alpha.slice({
      namespace: 'default',
      name: 'web-1',
      service: 'web',
      endpoints: [{ addresses: ['10.7.0.1'] }],
    });
    await alpha.publish();
    await lab.connect('alpha', source.endpoints);
    await lab.ready(await lab.lead(), 'alpha');
    const following = new Following(opened);
    const cluster = following.follow(lab.etcd, 'alpha', 'cached');
    await synced(cluster);
    assert.deepEqual([cluster.countOf('slices'), cluster.countOf('services')], [1, 0]);
    assert.equal(following.tables.serviceSlices.of('alpha/default/web').length, 1);
  } finally {
    await opened.close();
    await lab.close();
  }
});
