import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { Publisher } from '../../src/hub/publish/publisher.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { configValue } from '../lab/values.ts';
import { Following, Opened } from '../mesh/following.ts';
import { HubLab, type HubLabOptions } from './hub-lab.ts';
import { Machine } from './machine.ts';

/** The cluster of the hub as a peer sees it, read by the follower that our own agents use for remote clusters. */
let etcd: Etcd;
let hubs: HubLab[] = [];
let store: WriterStore;
let opened: Opened;

before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(async () => {
  await etcd.ctl('del', '--prefix', 'cilium/');
  await etcd.ctl('del', '--prefix', 'mesh-agent/');
  store = openWriterStore({ etcd: async () => ({ endpoints: etcd.endpoints }) });
  opened = new Opened();
});
afterEach(async () => {
  await opened.close();
  await store.close();
  await Promise.all(hubs.map((hub) => hub.stop()));
  hubs = [];
});

async function open(options: Partial<HubLabOptions> = {}): Promise<HubLab> {
  const hub = await HubLab.start({ etcd, ...options });
  hubs.push(hub);
  await until('it leads and is complete', () => hub.leading && hub.status.complete);
  return hub;
}

async function joined(
  hub: HubLab,
  name: string,
  ...addresses: (readonly [type: string, ip: string])[]
): Promise<number> {
  const { NodeIdentity } = await new Machine(store, name).join(...addresses);
  await until(`${name} is registered`, async () => (await hub.get(name)).state === 'registered');
  return NodeIdentity;
}

const value = async (key: string): Promise<string> => (await store.get(key))?.value.toString() ?? '';
const hostOf = async (ip: string): Promise<string> =>
  (JSON.parse((await value(`cilium/state/ip/v1/default/${ip}`)) || '{}') as { HostIP?: string }).HostIP ?? '';

test('a peer accepts every fact, and reads identity and tunnel endpoint of each machine', async () => {
  const hub = await open();
  await hub.create('a', { labels: { app: 'web' }, namespace: 'shop' });
  await hub.create('b', { labels: { app: 'db' } });
  const a = await joined(
    hub,
    'a',
    ['InternalIP', '192.168.1.5'],
    ['CiliumInternalIP', '10.192.0.1'],
    ['InternalIP', 'fd00:1::5'],
  );
  const b = await joined(hub, 'b', ['InternalIP', 'fd00:1::6']);
  const following = new Following(opened);
  const cluster = following.follow(etcd, 'vms');
  await until('it is followed', () => cluster.synced);
  assert.equal(cluster.config?.id, 100);
  assert.deepEqual(following.refused, []);
  const identities = {
    '192.168.1.5': a,
    'fd00:1::5': a,
    '10.192.0.1': a,
    '10.192.0.2': a,
    'fd00:192::3': a,
    'fd00:1::6': b,
    '10.192.0.5': b,
  };
  for (const [ip, id] of Object.entries(identities)) assert.equal(following.identityOf(ip), id, ip);
  const labels = following.dump().filter((line) => line.startsWith('identity'));
  assert.deepEqual(
    labels,
    [
      `identity ${a} k8s:app=web,k8s:io.cilium.k8s.policy.cluster=vms,k8s:io.kubernetes.pod.namespace=shop`,
      `identity ${b} k8s:app=db,k8s:io.cilium.k8s.policy.cluster=vms,k8s:io.kubernetes.pod.namespace=default`,
    ].sort(),
  );
});

test('a peer that reads on sees nothing vanish while hubs change and leases are lost', async () => {
  const one = await open();
  const two = await HubLab.start({ etcd });
  hubs.push(two);
  for (const name of ['a', 'b', 'c']) await one.create(name, { labels: { name } });
  for (const [i, name] of ['a', 'b', 'c'].entries()) await joined(one, name, ['InternalIP', `192.168.1.${i + 5}`]);
  const following = new Following(opened);
  const cluster = following.follow(etcd, 'vms');
  await until('it is followed', () => cluster.synced && following.identityOf('192.168.1.7') !== undefined);
  await one.stop();
  hubs = [two];
  await until('the other one leads', () => two.leading && two.status.complete);
  await two.ask('PUT', 'workloads/b', { labels: { name: 'x' } });
  const before = following.identityOf('192.168.1.6');
  await until('it went on', () => following.identityOf('192.168.1.6') !== before);
  assert.deepEqual(following.vanished, []);
  assert.deepEqual(following.refused, []);
});

test('after every lease of the hub was lost everything is there again, and so are the canaries', async () => {
  const hub = await open();
  await hub.create('a');
  const id = await joined(hub, 'a', ['InternalIP', '192.168.1.5']);
  const keys = [
    'cilium/.heartbeat',
    'cilium/cluster-config/vms',
    'cilium/state/nodes/v1/vms/a',
    'cilium/state/ip/v1/default/192.168.1.5',
    'cilium/synced/vms/cilium/state/nodes/v1',
    'cilium/synced/vms/cilium/state/services/v1',
  ];
  const leases = new Set<string>();
  for (const key of keys) leases.add((await store.read(key))?.lease ?? '0');
  for (const user of (await store.readPrefix('cilium/state/identities/v1/value/')).entries) leases.add(user.lease);
  for (const lease of leases) await etcd.ctl('lease', 'revoke', lease);
  for (const key of keys)
    await until(`${key} is back under another lease`, async () => {
      const lease = (await store.read(key))?.lease;
      return lease !== undefined && lease !== '0' && !leases.has(lease);
    });
  assert.notEqual(await value(`cilium/state/identities/v1/id/${id}`), '', 'masters have no lease to lose');
});

test('a hub that is gone for ten minutes takes no machine with it: its leases last a quarter of an hour', async () => {
  const hub = await open();
  await hub.create('a');
  await joined(hub, 'a', ['InternalIP', '192.168.1.5']);
  const facts = ['nodes/v1/vms/a', 'ip/v1/default/192.168.1.5', 'ip/v1/default/10.192.0.0/30'];
  const canaries = ['nodes', 'ip', 'identities', 'services'].map((kind) => `synced/vms/cilium/state/${kind}/v1`);
  const others = ['cluster-config/vms', ...canaries];
  for (const key of [...facts.map((fact) => `state/${fact}`), ...others]) {
    const { lease = '0' } = (await store.read(`cilium/${key}`)) ?? {};
    assert.match(await etcd.ctl('lease', 'timetolive', lease), /granted with TTL\(900s\)/, key);
  }
});

test('the tunnel endpoint has the family of the underlay: IPv4 where the machine has it', async () => {
  const hub = await open();
  await hub.create('dual');
  await hub.create('six');
  await joined(hub, 'dual', ['InternalIP', 'fd00:1::5'], ['InternalIP', '192.168.1.5']);
  await joined(hub, 'six', ['InternalIP', 'fd00:1::6']);
  await until('both are published', async () => (await hostOf('fd00:1::6')) !== '');
  for (const ip of ['192.168.1.5', 'fd00:1::5', '10.192.0.0/30', 'fd00:192::/126'])
    assert.equal(await hostOf(ip), '192.168.1.5', ip);
  for (const ip of ['fd00:1::6', '10.192.0.4/30']) assert.equal(await hostOf(ip), 'fd00:1::6', ip);
});

test('keys are canonical, however a machine writes its addresses', async () => {
  const hub = await open();
  await hub.create('a');
  await joined(hub, 'a', ['InternalIP', 'FD00:0001::0005'], ['InternalIP', '::ffff:192.168.1.5']);
  await until('it is published', async () => (await hostOf('192.168.1.5')) !== '');
  const keys = (await store.list('cilium/state/ip/v1/default/')).map(({ key }) => key);
  assert.deepEqual(keys.sort(), ['10.192.0.0/30', '192.168.1.5', 'fd00:192::/126', 'fd00:1::5']);
  assert.match(await value('cilium/state/ip/v1/default/10.192.0.0/30'), /"Mask":"\/{5}A=="/);
});

test('in a mesh of 511 clusters the configuration and the identities are those of such a mesh', async () => {
  const hub = await open({
    config: '{cluster: {name: vms, id: 300}, maxConnectedClusters: 511, pools: [], names: [hub.example.com]}',
  });
  await hub.create('a');
  const id = await joined(hub, 'a', ['InternalIP', '192.168.1.5']);
  assert.equal(await value('cilium/cluster-config/vms'), configValue(300, 'direct', 511));
  assert.ok(id >= 300 * 32_768 && id < 301 * 32_768, String(id));
});

test('keys of other clusters in the same store are left alone, also of one whose name begins like ours', async () => {
  const foreign = [
    'cilium/cluster-config/vms2',
    'cilium/state/nodes/v1/vms2/node-1',
    'cilium/synced/vms2/cilium/state/nodes/v1',
    'cilium/cache/ip/v1/vms/10.0.0.1',
    'cilium/state/services/v1/vms2/default/db',
  ];
  for (const key of foreign) await etcd.put(key, 'theirs');
  const hub = await open();
  await store.remove('cilium/cluster-config/vms');
  await until('our configuration is back', async () => (await value('cilium/cluster-config/vms')) !== '');
  assert.ok(hub.status.complete);
  for (const key of foreign) assert.equal(await value(key), 'theirs', key);
});

test('a value that the store would not take is refused with a reason', async () => {
  const publisher = new Publisher({
    store,
    leader: { conditions: [], resign: () => undefined },
    cluster: { name: 'vms', id: 100 },
    max: 255,
    onProblem: () => undefined,
  });
  const facts = new Map([['cilium/state/nodes/v1/vms/a', 'x'.repeat(1_600_000)]]);
  assert.throws(() => publisher.set('a', facts), {
    code: 'HUB-REGISTRATION',
    message: /nodes\/v1\/vms\/a would have 1600000 bytes/,
  });
  await publisher.close();
});
