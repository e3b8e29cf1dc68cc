import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import type { Verdict } from '../../src/hub/clusters/records.ts';
import type { KvstoreMesh } from '../../src/hub/mesh/kvstoremesh.ts';
import { verdictsOf } from '../../src/hub/mesh/verdicts.ts';
import { until } from '../lab/namespace.ts';
import { addressValue, goJson, labelString, nodeValue } from '../lab/values.ts';
import { announcementsOf, CacheLab, furnish } from './cache-lab.ts';

let lab: CacheLab;

async function start(options: Parameters<typeof CacheLab.start>[0] = {}): Promise<void> {
  lab = await CacheLab.start(options);
}

afterEach(() => lab.close());

function verdicts(mesh: KvstoreMesh, name: string): readonly Verdict[] {
  const found = mesh.clusters.find(({ document }) => document.name === name);
  assert(found, name);
  const certificates = { authority: [], client: [] };
  return verdictsOf({ cluster: found.cluster, certificates, overlaps: mesh.overlaps, now: Date.now() });
}

function bad(mesh: KvstoreMesh, name: string): readonly string[] {
  return verdicts(mesh, name)
    .filter(({ state }) => state !== 'ok')
    .map(({ code }) => code ?? '');
}

test('a hostile cluster writes nowhere but below its own name', async () => {
  await start();
  const source = await lab.source();
  const mallory = lab.cluster(source, { name: 'mallory', id: 66 });
  await furnish(mallory, '66');
  await mallory.publish();
  for (const key of [
    'cilium/state/nodes/v1/mallory/../../../../mesh-agent/v1/leader',
    'cilium/state/nodes/v1/mallory//x',
    'cilium/state/nodes/v1/mallory/./x',
    'cilium/state/services/v1/mallory/a/\u0001',
    `cilium/state/services/v1/mallory/${'n'.repeat(600)}`,
    'cilium/state/nodes/v1/alpha/node-1',
    'cilium/state/services/v1/alpha/default/web',
    'cilium/cluster-config/alpha',
    'cilium/synced/alpha/cilium/state/nodes/v1',
    'cilium/cache/ip/v1/alpha/10.0.0.1',
  ])
    await mallory.store.put(key, 'x');
  // Not UTF-8: it would become another key.
  await mallory.store.put(Buffer.from('cilium/state/services/v1/mallory/default/\xff', 'latin1') as never, 'x');
  await lab.connect('mallory', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'mallory');
  const keys = [...(await lab.cache()).keys()].filter((key) => !announcementsOf('mallory').includes(key));
  assert.equal(keys.length, 8);
  assert(keys.every((key) => /^cilium\/cache\/(nodes|ip|identities|services)\/v1\/mallory\/[-\w./:]+$/.test(key)));
  assert.deepEqual(bad(mesh, 'mallory'), ['HUB-CLUSTER-REFUSED']);
  const { cluster } = mesh.clusters[0] ?? assert.fail();
  assert.deepEqual([cluster.replica('nodes').refused('form'), cluster.replica('services').refused('form')], [3, 2]);
  assert.equal(cluster.replica('services').refused('size'), 1);
});

test('identities outside of the block, and addresses that carry them, are counted and not copied', async () => {
  await start();
  const source = await lab.source();
  const mallory = lab.cluster(source, { name: 'mallory', id: 66 });
  const own = 66 * 65_536;
  const labels = labelString({ app: 'x', 'io.cilium.k8s.policy.cluster': 'alpha' });
  for (const id of [
    String(7 * 65_536 + 5),
    '1',
    '0',
    '99999999999',
    `0${own}`,
    'x',
    String(own - 1),
    String(own + 65_536),
  ])
    await mallory.set('identities', id, labels);
  await mallory.set('identities', String(own), labels);
  await mallory.set('identities', String(own + 65_535), labels);
  await mallory.address({ ip: '10.66.0.1', identity: 7 * 65_536 });
  await mallory.address({ ip: '10.66.0.2', identity: own + 3 });
  await mallory.address({ ip: '10.66.0.3', identity: 6 });
  const sly = { IP: '10.66.0.4', Mask: null, HostIP: '', ID: own, Key: 0, Metadata: '' };
  await mallory.set('endpoints', '10.66.0.4', goJson(sly).replace('}', `,"id":${7 * 65_536}}`));
  // What no reader takes is passed on as it is.
  await mallory.set('endpoints', '10.66.0.5', '{"IP":');
  await mallory.publish();
  await lab.connect('mallory', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'mallory');
  const tails = async (kind: string): Promise<string[]> =>
    (await lab.store.list(`cilium/cache/${kind}/v1/mallory/`)).map(({ key }) => key).sort();
  assert.deepEqual(await tails('identities'), [`id/${own}`, `id/${own + 65_535}`]);
  assert.deepEqual(await tails('ip'), ['10.66.0.2', '10.66.0.3', '10.66.0.5']);
  const { cluster } = mesh.clusters[0] ?? assert.fail();
  assert.deepEqual(
    [cluster.replica('identities').refused('identity'), cluster.replica('ip').refused('identity')],
    [8, 2],
  );
  await mallory.address({ ip: '10.66.0.2', identity: 7 * 65_536 });
  await until('a value that turned bad is not left in its old form', async () => (await tails('ip')).length === 2);
  await mallory.address({ ip: '10.66.0.1', identity: own + 9 });
  await until('one that became good is copied', async () => (await tails('ip')).includes('10.66.0.1'));
});

test('an id belongs to the cluster that has it; the second one is refused, shown, and let in when it is free', async () => {
  await start();
  const [first, second] = [await lab.source(), await lab.source()];
  const alpha = lab.cluster(first, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  const thief = lab.cluster(second, { name: 'thief', id: 7 });
  await furnish(thief, '8');
  await thief.publish();
  await lab.connect('alpha', first.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha');
  const before = await lab.cache();
  await lab.connect('thief', second.endpoints);
  await until('it is refused', () => mesh.clusters[1]?.cluster.problem !== undefined);
  assert.deepEqual(bad(mesh, 'thief'), ['MSH-CLUSTER-ID']);
  assert.match(verdicts(mesh, 'thief').find(({ check }) => check === 'id')?.text ?? '', /already used by alpha/);
  assert.deepEqual(bad(mesh, 'alpha'), []);
  assert.deepEqual(await lab.cache(), before);
  // Also over a takeover in which the thief answers first.
  await first.stop();
  await mesh.stop();
  const next = await lab.lead();
  await until('it is refused again', () => next.clusters[1]?.cluster.problem !== undefined);
  assert.deepEqual(await lab.cache(), before);
  await lab.disconnect('alpha');
  await lab.ready(next, 'thief');
});

test('ids of the hub, beyond the size of the mesh, or of another size are refused', async () => {
  await start();
  for (const [name, options] of [
    ['own', { id: 100 }],
    ['large', { id: 300 }],
    ['other', { id: 7, maxClusters: 511 as const }],
    ['none', { id: 1, config: '{}' }],
    ['broken', { id: 1, config: '{"id":' }],
  ] as const) {
    const source = await lab.source();
    await lab.cluster(source, { name, ...options }).publish();
    await lab.connect(name, source.endpoints);
  }
  const mesh = await lab.lead();
  await until('all are refused', () => mesh.clusters.every(({ cluster }) => cluster.problem !== undefined));
  assert.deepEqual(
    mesh.clusters.map(({ document, cluster }) => [document.name, cluster.problem?.code]),
    [
      ['broken', 'MSH-CONFIG'],
      ['large', 'MSH-CONFIG'],
      ['none', 'MSH-CONFIG'],
      ['other', 'MSH-CLUSTER-ID'],
      ['own', 'MSH-CLUSTER-ID'],
    ],
  );
  assert.equal((await lab.cache()).size, 0);
});

test('addresses of another cluster’s nodes, of machines, of their services and of pools are not copied, whoever comes first', async () => {
  await start({ pools: ['10.192.0.0/16'] });
  await lab.store.put('cilium/state/ip/v1/default/192.0.2.5', addressValue({ ip: '192.0.2.5', identity: 6_553_700 }));
  await lab.store.put('mesh-agent/v1/frontends/10.193.0.1', 'shop/api');
  const [one, two] = [await lab.source(), await lab.source()];
  const alpha = lab.cluster(one, { name: 'alpha', id: 7 });
  const mallory = lab.cluster(two, { name: 'mallory', id: 66 });
  const identity = 66 * 65_536 + 1;
  const claims = [
    '192.168.7.1',
    '192.168.7.1/32',
    'fd00::7:1',
    '192.0.2.5',
    '10.192.3.4',
    '10.193.0.1',
    '10.192.8.0/24',
    '10.66.0.9',
  ];
  for (const ip of claims) await mallory.address({ ip, identity });
  await mallory.address({ ip: '10.0.0.0/8', identity });
  await mallory.node({ name: 'twin', ipv4: '192.168.7.1' });
  await mallory.node({ name: 'pool', ipv4: '192.168.66.3', range4: '10.192.1.0/24' });
  await mallory.node({ name: 'honest', ipv4: '192.168.66.2' });
  await mallory.publish();
  await alpha.publish();
  await lab.connect('alpha', one.endpoints);
  await lab.connect('mallory', two.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha', 'mallory');
  const tails = async (kind: string): Promise<string[]> =>
    (await lab.store.list(`cilium/cache/${kind}/v1/mallory/`)).map(({ key }) => key).sort();
  // Nobody else has the address of the node yet.
  assert.deepEqual(await tails('ip'), ['10.0.0.0/8', '10.66.0.9', '192.168.7.1', '192.168.7.1/32', 'fd00::7:1']);
  assert.deepEqual(await tails('nodes'), ['honest', 'twin']);
  await alpha.node({ name: 'node-1', ipv4: '192.168.7.1', ipv6: 'fd00::7:1' });
  await until('the claims are taken back', async () => (await tails('ip')).length === 2);
  assert.deepEqual(await tails('ip'), ['10.0.0.0/8', '10.66.0.9']);
  await until('the twin, too', async () => (await tails('nodes')).join() === 'honest');
  assert.equal((await lab.store.list('cilium/cache/nodes/v1/alpha/')).length, 1);
  assert(bad(mesh, 'mallory').includes('HUB-CLUSTER-REFUSED'));
  // A machine comes.
  await lab.store.put('cilium/state/ip/v1/default/10.66.0.9', addressValue({ ip: '10.66.0.9', identity: 6_553_701 }));
  await until('its address is its own', async () => (await tails('ip')).length === 1);
  await lab.store.remove('cilium/state/ip/v1/default/10.66.0.9');
  await alpha.unset('nodes', 'node-1');
  await until('what is free again is copied again', async () => (await tails('ip')).length === 5);
  await until('the twin, too', async () => (await tails('nodes')).length === 2);
});

test('one cluster fills neither our store nor our memory; the limit is shown, and what leaves makes room', async () => {
  await start({ budget: { keys: 50, bytes: 1 << 20 } });
  const [one, two] = [await lab.source(), await lab.source()];
  const alpha = lab.cluster(one, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  const flood = lab.cluster(two, { name: 'flood', id: 66 });
  for (let i = 0; i < 80; i++) await flood.address({ ip: `10.66.0.${i}`, identity: 66 * 65_536 });
  await flood.publish();
  await flood.store.put('cilium/state/ip/v1/default/10.66.1.1', 'x'.repeat(70_000));
  await lab.connect('alpha', one.endpoints);
  await lab.connect('flood', two.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha', 'flood');
  assert.equal((await lab.store.list('cilium/cache/ip/v1/flood/')).length, 50);
  assert.deepEqual(bad(mesh, 'flood'), ['HUB-CLUSTER-REFUSED', 'HUB-CLUSTER-LIMIT']);
  assert.match(verdicts(mesh, 'flood').at(-1)?.text ?? '', /^30 values beyond the limit of one cluster: 50 keys/);
  assert.deepEqual(bad(mesh, 'alpha'), []);
  for (let i = 0; i < 40; i++) await flood.unset('endpoints', `10.66.0.${i}`);
  await until('the others come in', async () => (await lab.store.list('cilium/cache/ip/v1/flood/')).length === 40);
  await until('the limit is not shown any more', () => !bad(mesh, 'flood').includes('HUB-CLUSTER-LIMIT'));
});

test('what machines cannot do as the cluster expects is told: a mode that Cilium does not know, and encryption', async () => {
  await start();
  const source = await lab.source();
  const config = (mode: string): string =>
    `{"id":7,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"endpointSlicesExportMode":"${mode}"}}`;
  const alpha = lab.cluster(source, { name: 'alpha', id: 7, config: config('x') });
  const node = (name: string, ip: string): string =>
    nodeValue({ name, cluster: 'alpha', clusterId: 7, addresses: [{ Type: 'InternalIP', IP: ip }] });
  await alpha.set('nodes', 'plain', node('plain', '192.168.7.1'));
  await alpha.set(
    'nodes',
    'wire',
    node('wire', '192.168.7.2').replace('"WireguardPubKey":""', '"WireguardPubKey":"eA=="'),
  );
  await alpha.set('nodes', 'ipsec', node('ipsec', '192.168.7.3').replace('"EncryptionKey":0', '"EncryptionKey":3'));
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  await until('the mode is refused', () => bad(mesh, 'alpha').includes('MSH-CONFIG'));
  await source.put('cilium/cluster-config/alpha', config(''));
  await lab.ready(mesh, 'alpha');
  assert.deepEqual(bad(mesh, 'alpha'), ['HUB-CLUSTER-ENCRYPTION']);
  const told = (): string => verdicts(mesh, 'alpha').find(({ check }) => check === 'encryption')?.text ?? '';
  assert.match(told(), /^2 nodes encrypt/);
  await alpha.unset('nodes', 'ipsec');
  await until('one is left', () => /^1 node encrypts/.test(told()));
  await alpha.set('nodes', 'wire', node('wire', '192.168.7.2'));
  await until('it is over', () => told() === '');
});

test('node ranges that overlap are told to both clusters, and those of the hub', async () => {
  await start({ pools: ['10.192.0.0/16'] });
  const [one, two] = [await lab.source(), await lab.source()];
  const alpha = lab.cluster(one, { name: 'alpha', id: 7 });
  const beta = lab.cluster(two, { name: 'beta', id: 8 });
  await alpha.node({ name: 'a', ipv4: '192.168.7.1', range4: '10.7.0.0/16' });
  await alpha.node({ name: 'b', ipv4: '192.168.7.2', range4: '10.0.0.0/8' });
  await beta.node({ name: 'c', ipv4: '192.168.8.1', range4: '10.7.3.0/24' });
  await beta.set('nodes', 'd', nodeValue({ name: 'd', cluster: 'beta', clusterId: 8, range4: '172.16.0.0/24' }));
  await alpha.publish();
  await beta.publish();
  await lab.connect('alpha', one.endpoints);
  await lab.connect('beta', two.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha', 'beta');
  const told = (name: string): string => verdicts(mesh, name).find(({ check }) => check === 'ranges')?.text ?? '';
  assert.match(told('beta'), /range 10\.0\.0\.0\/8 of node b in cluster alpha and range 10\.7\.3\.0\/24 of node c/);
  assert.match(told('beta'), /range 10\.7\.0\.0\/16 of node a in cluster alpha and range 10\.7\.3\.0\/24/);
  assert.match(told('alpha'), /range 10\.0\.0\.0\/8 of node b in cluster alpha and pool 10\.192\.0\.0\/16 of the hub/);
  await alpha.unset('nodes', 'a');
  await alpha.unset('nodes', 'b');
  await until('it is over', () => bad(mesh, 'beta').length === 0 && bad(mesh, 'alpha').length === 0);
});
