import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { putCertificate } from '../../src/hub/enrolment/books.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { addressValue, configValue, labelString, nodeValue } from '../lab/values.ts';
import { HubLab, type HubLabOptions } from './hub-lab.ts';
import { type Answer, announcement, Machine, REGISTER } from './machine.ts';

let etcd: Etcd;
let hubs: HubLab[] = [];
let machines: WriterStore;

before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(async () => {
  await etcd.ctl('del', '--prefix', 'cilium/');
  await etcd.ctl('del', '--prefix', 'mesh-agent/');
  machines = openStoreOfMachines();
});
afterEach(async () => {
  await machines.close();
  await Promise.all(hubs.map((hub) => hub.stop()));
  hubs = [];
});

function openStoreOfMachines(): WriterStore {
  return openWriterStore({
    etcd: async () => ({ endpoints: etcd.endpoints }),
    timing: { retryMinMs: 50, retryMaxMs: 300 },
  });
}

async function open(options: Partial<HubLabOptions> = {}): Promise<HubLab> {
  const hub = await HubLab.start({ etcd, ...options });
  hubs.push(hub);
  await until('it leads', () => hub.leading);
  return hub;
}

const machineOf = (name: string, options?: { readonly ttlSeconds?: number }): Machine =>
  new Machine(machines, name, options);
const get = async (key: string): Promise<string | undefined> => (await machines.get(key))?.value.toString();
const pair = async (ip: string): Promise<{ ID: number; HostIP: string } | undefined> =>
  JSON.parse((await get(`cilium/state/ip/v1/default/${ip}`)) ?? 'null') ?? undefined;
const published = async (name: string): Promise<string[]> =>
  (await machines.list('cilium/state/ip/v1/default/'))
    .filter(({ value }) => value.toString().includes(`"K8sPodName":"${name}"`))
    .map(({ key }) => key);
const registered = (hub: HubLab, name: string): Promise<void> =>
  until(`${name} is registered`, async () => (await hub.get(name)).state === 'registered');

test('both phases, byte for byte as Cilium 1.16 does them', async () => {
  const config = `{cluster: {name: cluster1, id: 1}, pools: [], names: [hub.example.com]}`;
  const hub = await open({ config });
  await hub.create('runtime', { labels: { app: 'vm' }, ipv4AllocCidr: '10.192.1.0/30' });
  // The identity of the example, as an earlier allocation left it.
  const labels = 'k8s:app=vm;k8s:io.cilium.k8s.policy.cluster=cluster1;k8s:io.kubernetes.pod.namespace=default;';
  await etcd.put('cilium/state/identities/v1/id/66544', labels);
  const machine = machineOf('runtime');
  await machine.answer();
  assert.equal(
    await get(`${REGISTER}runtime`),
    '{"Name":"runtime","Cluster":"cluster1","IPAddresses":null,"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"/////A=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"kvstore","EncryptionKey":0,"Labels":{"app":"vm","io.cilium.k8s.policy.cluster":"cluster1","io.kubernetes.pod.name":"runtime","io.kubernetes.pod.namespace":"default"},"Annotations":null,"NodeIdentity":66544,"WireguardPubKey":"","BootID":""}',
  );
  await machine.join(['InternalIP', '192.168.56.10'], ['CiliumInternalIP', '10.192.1.1'], ['InternalIP', 'fd00::10']);
  await registered(hub, 'runtime');
  await until('it is published', async () => (await published('runtime')).length === 4);
  assert.equal(
    await get('cilium/state/nodes/v1/cluster1/runtime'),
    '{"Name":"runtime","Cluster":"cluster1","IPAddresses":[{"Type":"InternalIP","IP":"192.168.56.10"},{"Type":"CiliumInternalIP","IP":"10.192.1.1"},{"Type":"InternalIP","IP":"fd00::10"}],"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"/////A=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"kvstore","EncryptionKey":0,"Labels":{"kubernetes.io/hostname":"runtime"},"Annotations":null,"NodeIdentity":6,"WireguardPubKey":"","BootID":""}',
  );
  const host =
    '"HostIP":"192.168.56.10","ID":66544,"Key":0,"Metadata":"","K8sNamespace":"default","K8sPodName":"runtime"}';
  assert.equal(await get('cilium/state/ip/v1/default/192.168.56.10'), `{"IP":"192.168.56.10","Mask":null,${host}`);
  assert.equal(await get('cilium/state/ip/v1/default/fd00::10'), `{"IP":"fd00::10","Mask":null,${host}`);
  assert.equal(await get('cilium/state/ip/v1/default/10.192.1.0/30'), `{"IP":"10.192.1.0","Mask":"/////A==",${host}`);
  assert.deepEqual((await hub.get('runtime')).claims, []);
});

test('the cluster of the hub is what every peer expects, canaries last', async () => {
  const seen: string[] = [];
  const watch = machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void seen.push(`cilium/${key}`),
    remove() {},
    listed() {},
  });
  await until('it watches', () => watch.synced);
  const lab = new HubLab({ etcd });
  hubs.push(lab);
  // A machine of before that waits: its facts belong to what the canaries announce.
  await etcd.put('mesh-agent/v1/names/web', 'default');
  await etcd.put(
    'mesh-agent/v1/workloads/default/web',
    '{"version":1,"uid":"00000000-0000-4000-8000-000000000001","name":"web","namespace":"default","labels":{},"created":"2026-01-01T00:00:00.000Z","changed":"2026-01-01T00:00:00.000Z"}',
  );
  machines.own(
    `${REGISTER}web`,
    nodeValue({
      name: 'web',
      cluster: 'vms',
      clusterId: 100,
      source: 'local',
      nodeIdentity: 6_553_600,
      addresses: [{ Type: 'InternalIP', IP: '192.168.1.5' }],
    }),
  );
  await until('it is there', async () => (await get(`${REGISTER}web`)) !== undefined);
  const hub = await open();
  await until('it is complete', () => hub.status.complete);
  const canary = (kind: string): string => `cilium/synced/vms/cilium/state/${kind}/v1`;
  const keys = ['ip', 'nodes', 'identities', 'services'].map(canary);
  for (const key of keys) assert.match((await get(key)) ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, key);
  assert.equal(await get('cilium/cluster-config/vms'), configValue(100, 'direct'));
  assert.match((await get('cilium/.heartbeat')) ?? '', /Z$/);
  await until('all was seen', () => keys.every((key) => seen.includes(key)));
  const at = (start: string): number => seen.findIndex((key) => key.startsWith(start));
  const order = [
    'cilium/state/identities/v1/id/',
    'cilium/state/nodes/v1/vms/web',
    'cilium/state/ip/v1/default/192.168.1.5',
    'cilium/synced/',
  ];
  const places = order.map(at);
  assert.ok(
    places.every((place) => place >= 0),
    seen.join('\n'),
  );
  assert.deepEqual(
    places,
    [...places].sort((a, b) => a - b),
    seen.join('\n'),
  );
  assert.ok(at('cilium/.heartbeat') < at('cilium/state/nodes'));
  for (const key of [...keys, 'cilium/.heartbeat', 'cilium/cluster-config/vms', 'cilium/state/nodes/v1/vms/web'])
    assert.notEqual((await machines.read(key))?.lease ?? '0', '0', `${key} is under a lease`);
  assert.equal((await machines.list('cilium/state/ip/v1/vms/')).length, 0);
  watch.close();
});

test('the heartbeat goes on', async () => {
  await open({ timing: { heartbeatMs: 1100 } });
  let beats = 0;
  machines.watchKey('cilium/.heartbeat', { listing() {}, put: () => void beats++, remove() {}, listed() {} });
  await until('three beats', () => beats >= 3);
});

test('machines with equal labels share an identity, others do not', async () => {
  const hub = await open();
  for (const [name, app] of [
    ['a', 'web'],
    ['b', 'web'],
    ['c', 'db'],
  ] as const)
    await hub.create(name, { labels: { app } });
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => machineOf(name).answer()));
  assert.equal(a?.NodeIdentity, b?.NodeIdentity);
  assert.notEqual(a?.NodeIdentity, c?.NodeIdentity);
  const labels = { app: 'web', 'io.cilium.k8s.policy.cluster': 'vms', 'io.kubernetes.pod.namespace': 'default' };
  assert.equal(await get(`cilium/state/identities/v1/id/${a?.NodeIdentity}`), labelString(labels));
});

test('what a machine claims beside its addresses is overridden and told, and not argued about for ever', async () => {
  const hub = await open();
  await hub.create('vm', { labels: { app: 'web' } });
  const machine = machineOf('vm');
  const answer = await machine.answer();
  const claimed = { ...answer.Labels, app: 'admin', 'io.kubernetes.pod.namespace': 'kube-system' };
  const more = {
    Labels: claimed,
    NodeIdentity: 2,
    Cluster: 'cluster-b',
    ClusterID: 7,
    IPv4AllocCIDR: { IP: '10.0.0.0', Mask: '/wAAAA==' },
    IPv4IngressIP: '10.0.0.9',
    Annotations: { 'mesh-agent.io/version': '1.2.3', 'mesh-agent.io/policy-revision': 'x'.repeat(65), other: 'y' },
  };
  const writes: string[] = [];
  machines.watchKey(`${REGISTER}vm`, {
    listing() {},
    put: (_, value) => void writes.push(value.toString()),
    remove() {},
    listed() {},
  });
  machine.report(answer, [['InternalIP', '192.168.1.5']], more);
  await registered(hub, 'vm');
  machine.report(
    answer,
    [
      ['InternalIP', '192.168.1.5'],
      ['InternalIP', '192.168.1.6'],
    ],
    more,
  );
  await until('the other address is published', async () => (await pair('192.168.1.6')) !== undefined);
  await until('its claims are told', async () => (await hub.get('vm')).claims.length === 6);
  const record = await hub.get('vm');
  assert.match(
    record.claims.join('\n'),
    /cluster cluster-b instead of vms.*id 7 instead of 100.*identity 2 .*app=admin.*10\.0\.0\.0\/8.*ingress/s,
  );
  assert.deepEqual([record.agentVersion, record.policyRevision], ['1.2.3', null]);
  const found = await pair('192.168.1.5');
  assert.equal(found?.ID, answer.NodeIdentity);
  const node = (await get('cilium/state/nodes/v1/vms/vm')) ?? '';
  assert.match(node, /"IPv4AllocCIDR":\{"IP":"10\.192\.0\.0","Mask":"\/{5}A=="\}/);
  assert.match(node, /"Cluster":"vms".*"IPv4IngressIP":"".*"ClusterID":100.*"NodeIdentity":6/);
  await until('health says so', () =>
    hub.troubles.some(({ code, text }) => code === 'HUB-REGISTRATION' && text.includes('vm')),
  );
  const last = JSON.parse(writes.at(-1) ?? '{}') as Answer;
  assert.notEqual(last.IPAddresses, null, 'it was told before, and does not listen');
});

test('addresses that a machine must not have are refused and shown, the others are published', async () => {
  await etcd.put(
    'cilium/cache/nodes/v1/cluster-b/node-1',
    nodeValue({
      name: 'node-1',
      cluster: 'cluster-b',
      clusterId: 2,
      range4: '10.2.0.0/24',
      addresses: [
        { Type: 'InternalIP', IP: '172.18.0.7' },
        { Type: 'CiliumInternalIP', IP: '10.9.0.99' },
      ],
    }),
  );
  await etcd.put('cilium/cache/ip/v1/cluster-b/10.77.0.5', addressValue({ ip: '10.77.0.5', identity: 131_073 }));
  const hub = await open();
  await hub.create('first');
  await hub.create('second');
  await machineOf('first').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'first');
  const wrong: Readonly<Record<string, RegExp>> = {
    '0.0.0.0': /names no machine/,
    '127.0.0.1': /loopback/,
    '169.254.1.1': /link-local/,
    '224.0.0.1': /multicast/,
    '255.255.255.255': /reserved/,
    '::1': /no unicast/,
    'fe80::1': /link-local/,
    'ff02::1': /multicast/,
    '192.168.1.5': /workload first has it/,
    '10.192.0.1': /10\.192\.0\.0\/30 of workload first/,
    '10.192.77.1': /lies in the pool/,
    '192.0.2.1': /the hub has it/,
    '172.18.0.7': /node address 172\.18\.0\.7 of node-1 in cluster cluster-b/,
    '10.9.0.99': /router address/,
    '10.2.0.200': /pod range/,
    '10.77.0.5': /a pod of cluster cluster-b/,
  };
  const addresses = Object.keys(wrong).map((ip) => ['InternalIP', ip] as const);
  await machineOf('second').join(...addresses.slice(0, 8), ['InternalIP', '192.168.1.6'], ...addresses.slice(8));
  await registered(hub, 'second');
  const record = await hub.get('second');
  assert.deepEqual(record.addresses, ['192.168.1.6']);
  assert.equal(record.refused.length, 16);
  for (const { address, reason } of record.refused) assert.match(reason, wrong[address] ?? /never/, address);
  assert.deepEqual(await published('second'), ['10.192.0.4/30', '192.168.1.6', 'fd00:192::4/126']);
  assert.equal((await pair('192.168.1.5'))?.HostIP, '192.168.1.5');
});

test('router and health addresses outside of the own range, and more addresses than a machine has, are refused', async () => {
  const hub = await open();
  await hub.create('vm');
  const machine = machineOf('vm');
  const many = Array.from({ length: 20 }, (_, i) => ['InternalIP', `192.168.1.${i + 1}`] as const);
  machine.report(
    await machine.answer(),
    [['CiliumInternalIP', '10.0.0.1'], ['CiliumInternalIP', '10.192.0.1'], ['ExternalDNS', '192.168.2.1'], ...many],
    { IPv4HealthIP: '10.0.0.2', IPv6HealthIP: 'fd00:192::2' },
  );
  await registered(hub, 'vm');
  const { addresses, refused } = await hub.get('vm');
  assert.equal(addresses.length, 16);
  assert.deepEqual(
    refused.map(({ address, reason }) => `${address} ${reason}`),
    [
      '10.0.0.1 a router address lies in the range of the workload',
      '192.168.2.1 its type "ExternalDNS" is none that machines have',
      ...['16', '17', '18', '19', '20'].map((last) => `192.168.1.${last} a machine has at most 16 addresses`),
      '10.0.0.2 a health address lies in the range of the workload',
    ],
  );
  assert.match((await get('cilium/state/nodes/v1/vms/vm')) ?? '', /"IPv4HealthIP":"","IPv6HealthIP":"fd00:192::2"/);
});

test('an address goes to whoever waits for it when its machine gives it up', async () => {
  const hub = await open();
  await hub.create('first');
  await hub.create('second');
  const first = machineOf('first');
  const answer = await first.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'first');
  await machineOf('second').join(['InternalIP', '192.168.1.5']);
  await until('it is refused', async () => (await hub.get('second')).refused.length === 1);
  assert.equal((await hub.get('second')).state, 'waiting');
  assert.match((await hub.get('second')).reason ?? '', /no address of its own/);
  first.report(answer, [['InternalIP', '192.168.1.9']]);
  await registered(hub, 'second');
  assert.equal(JSON.stringify(await pair('192.168.1.5')).includes('"second"'), true);
});

test('a cluster that claims an address later does not knock the machine out, and is told', async () => {
  const hub = await open();
  await hub.create('vm');
  await machineOf('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await etcd.put('cilium/cache/ip/v1/cluster-b/192.168.1.5', addressValue({ ip: '192.168.1.5', identity: 131_073 }));
  await until('it is told', () =>
    hub.troubles.some(({ code, text }) => code === 'HUB-OVERLAP' && text.includes('cluster-b')),
  );
  assert.notEqual(await pair('192.168.1.5'), undefined);
  await until('it is shown', async () => /also in use/.test((await hub.get('vm')).reason ?? ''));
});

test('a registration that cannot be used changes nothing, is told, and heals', async () => {
  const hub = await open();
  await hub.create('vm');
  const machine = machineOf('vm');
  const answer = await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  for (const [value, reason] of [
    ['{', /not JSON/],
    [JSON.stringify({ ...answer, Name: 'other' }), /Name "other" is not the key's last part/],
    [JSON.stringify({ ...answer, IPAddresses: 'all' }), /IPAddresses is no list/],
    [JSON.stringify({ ...answer, NodeIdentity: 2 ** 40 }), /NodeIdentity/],
    [JSON.stringify({ ...answer, Labels: { x: 'x'.repeat(70_000) } }), /bytes is too long/],
  ] as const) {
    machine.key.update(value);
    await until(String(reason), async () => reason.test((await hub.get('vm')).reason ?? ''));
    assert.notEqual(await pair('192.168.1.5'), undefined);
  }
  machine.report(answer, [['InternalIP', '192.168.1.6']]);
  await until('it is fine again', async () => (await hub.get('vm')).reason === null);
  await until('nothing of before is left', async () => (await pair('192.168.1.5')) === undefined);
  await until('health is clear', () => hub.troubles.length === 0);
});

test('live label changes reach the machine and its peers; an agent that does not listen is overridden', async () => {
  const hub = await open();
  await hub.create('vm', { labels: { app: 'web' } });
  const machine = machineOf('vm');
  const before = await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await hub.ask('PUT', 'workloads/vm', { labels: { app: 'db' } });
  const after = await machine.answer();
  assert.equal(after.Labels.app, 'db');
  assert.notEqual(after.NodeIdentity, before.NodeIdentity);
  await until('peers see it', async () => (await pair('192.168.1.5'))?.ID === after.NodeIdentity);
  // Cilium's agent writes its own value again after a while, with what it was told first.
  machine.report(before, [['InternalIP', '192.168.1.5']]);
  await until('that is shown', async () => (await hub.get('vm')).claims.length === 2);
  assert.equal((await pair('192.168.1.5'))?.ID, after.NodeIdentity);
  machine.report(after, [['InternalIP', '192.168.1.5']]);
  await until('it is fine', async () => (await hub.get('vm')).claims.length === 0);
  const users = await machines.list('cilium/state/identities/v1/value/');
  assert.equal(users.length, 1, 'the identity of before is released');
});

test('a machine that is gone is expired at once and withdrawn after the grace; it heals when it comes back', async () => {
  const hub = await open({ timing: { graceMs: 1500 } });
  await hub.create('vm');
  const machine = machineOf('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await machine.key.release();
  await until('it is expired', async () => (await hub.get('vm')).state === 'expired');
  assert.notEqual(await pair('192.168.1.5'), undefined, 'not at once');
  const again = machineOf('vm');
  await again.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await again.key.release();
  await until('it is withdrawn', async () => (await published('vm')).length === 0);
  assert.equal(await get('cilium/state/nodes/v1/vms/vm'), undefined);
  assert.equal((await machines.list('cilium/state/identities/v1/value/')).length, 0);
  assert.equal((await machines.list('cilium/state/identities/v1/id/')).length, 1, 'the number stays for a while');
  await until('it is shown', async () => (await hub.get('vm')).addresses.length === 0);
  const record = await hub.get('vm');
  assert.equal(record.state, 'expired');
  assert.ok((record.lastSeen ?? 0) > Date.now() - 60_000);
  await machineOf('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
});

test('a machine that lost its rights is withdrawn at once, not after the grace', async () => {
  const hub = await open();
  await hub.create('vm');
  const machine = machineOf('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  const certificate = {
    workload: 'vm',
    workloadKey: 'mesh-agent/v1/workloads/default/vm',
    workloadUid: (await hub.get('vm')).uid,
    keyHash: 'x',
    issuedAt: 1,
    notAfter: Date.now() + 3_600_000,
    from: '192.168.1.5',
    pem: 'x',
  };
  await machines.transact({
    perform: putCertificate('01', { ...certificate, revokedAt: Date.now(), revokedBy: 'root' }),
  });
  await machine.key.release();
  await until('it is withdrawn', async () => (await published('vm')).length === 0);
  await until('it is shown', async () => (await hub.get('vm')).state === 'revoked');
  await machines.transact({ perform: putCertificate('02', certificate) });
  const again = machineOf('vm');
  await again.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await again.key.release();
  await until('it is expired', async () => (await hub.get('vm')).state === 'expired');
  assert.notEqual((await published('vm')).length, 0, 'with another good certificate it may come back');
});

test('a machine whose lease ends is expired, also one that was only answered', async () => {
  const hub = await open({ timing: { graceMs: 100 } });
  await hub.create('vm');
  machineOf('vm', { ttlSeconds: 2 });
  await until('it waits', async () => (await hub.get('vm')).state === 'waiting');
  await machines.close();
  machines = openStoreOfMachines();
  await until('it is expired', async () => (await hub.get('vm')).state === 'expired');
  assert.equal(await get(`${REGISTER}vm`), undefined, 'the answer did not outlive the machine');
});

test('a registration without a lease is not answered: it would never end', async () => {
  const hub = await open();
  await hub.create('vm');
  await etcd.put(`${REGISTER}vm`, announcement('vm'));
  await until('it is told', async () => /no lease/.test((await hub.get('vm')).reason ?? ''));
  assert.equal(await get(`${REGISTER}vm`), announcement('vm'));
});

test('a machine is answered as soon as its workload exists, and not before', async () => {
  const hub = await open();
  const machine = machineOf('vm');
  await until('it is told', () => hub.troubles.some(({ text }) => /no workload of that name/.test(text)));
  assert.equal(await get(`${REGISTER}vm`), announcement('vm'));
  await hub.create('vm');
  assert.equal((await machine.answer()).Cluster, 'vms');
});

test('what is deleted is withdrawn at once, and never answered again', async () => {
  const hub = await open();
  await hub.create('vm');
  const machine = machineOf('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await hub.ask('DELETE', 'workloads/vm');
  await until('nothing is left', async () => (await published('vm')).length === 0);
  await until('nor a record', async () => (await machines.list('mesh-agent/v1/registrations/')).length === 0);
  assert.deepEqual(hub.revoked, ['vm']);
  // In spite of its lost rights: our own key handle writes it again.
  machine.key.update(announcement('vm'));
  await until('it is told', () => hub.troubles.some(({ text }) => /no workload of that name/.test(text)));
  assert.equal(await get(`${REGISTER}vm`), announcement('vm'));
  await hub.create('vm', { labels: { other: 'x' } });
  assert.equal((await machine.answer()).Labels.other, 'x');
  assert.equal((await published('vm')).length, 0, 'the new one has reported nothing');
});

test('a hub that takes over leaves everything as it is, and goes on', async () => {
  const one = await open();
  for (const name of ['a', 'b', 'gone']) await one.create(name, { labels: { name } });
  const answers = await Promise.all(
    ['a', 'b', 'gone'].map((name, i) => machineOf(name).join(['InternalIP', `192.168.1.${i + 5}`])),
  );
  for (const name of ['a', 'b', 'gone']) await registered(one, name);
  await until('all is written', () => one.status.complete && one.status.pendingKeys === 0);
  const other = await HubLab.start({ etcd, timing: { graceMs: 4000 } });
  hubs.push(other);
  const events: string[] = [];
  const watch = machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void (watch.synced && events.push(`put ${key}`)),
    remove: (key) => void events.push(`remove ${key}`),
    listed() {},
  });
  await until('it watches', () => watch.synced);
  await one.stop();
  hubs = hubs.filter((hub) => hub !== one);
  await machines.remove(`${REGISTER}gone`);
  await until('the other one leads', () => other.leading && other.status.complete);
  assert.deepEqual(
    events.filter((event) => event.startsWith('remove') && !/noderegister|locks/.test(event)),
    [],
  );
  assert.deepEqual(
    events.filter((event) => /put state\/(nodes|ip)|state\/identities\/v1\/id/.test(event)),
    [],
  );
  for (const [i, answer] of answers.entries())
    assert.equal((await pair(`192.168.1.${i + 5}`))?.ID, answer.NodeIdentity);
  await registered(other, 'a');
  await other.ask('PUT', 'workloads/b', { labels: { name: 'c' } });
  await until('it publishes', async () => (await pair('192.168.1.6'))?.ID !== answers[1]?.NodeIdentity);
});

test('a hub stops at once, also while an identity waits for a lock that somebody holds', async () => {
  const hub = await open();
  await hub.create('vm', { labels: { app: 'web' } });
  const labels = 'k8s:app=web;k8s:io.cilium.k8s.policy.cluster=vms;k8s:io.kubernetes.pod.namespace=default;';
  await etcd.put(`cilium/state/identities/v1/locks/${labels}/1`, '');
  machineOf('vm');
  await until(
    'it waits',
    async () => (await machines.list(`cilium/state/identities/v1/locks/${labels}/`)).length === 2,
  );
  hubs = [];
  let stopped = false;
  const stopping = hub.stop().then(() => {
    stopped = true;
  });
  // A minute is how long a lock is waited for.
  await until('it stopped', () => stopped, 30_000);
  await stopping;
  assert.equal((await machines.list(`cilium/state/identities/v1/locks/${labels}/`)).length, 1, 'its place is free');
});

test('canaries are taken back while a machine that registered is missing in the store', async () => {
  const one = await open();
  await one.create('vm');
  await machineOf('vm').join(['InternalIP', '192.168.1.5']);
  await registered(one, 'vm');
  await until('it is complete', () => one.status.complete);
  await one.stop();
  hubs = [];
  await machines.remove('cilium/state/nodes/v1/vms/vm');
  await machines.remove('cilium/state/ip/v1/default/192.168.1.5');
  const order: string[] = [];
  const watch = machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void (watch.synced && order.push(`put ${key}`)),
    remove: (key) => void order.push(`remove ${key}`),
    listed() {},
  });
  await until('it watches', () => watch.synced);
  const two = await open();
  await until('it is complete', () => two.status.complete);
  const canary = 'synced/vms/cilium/state/ip/v1';
  await until('all was seen', () => order.includes(`put ${canary}`));
  const [back, fact, again] = [`remove ${canary}`, 'put state/ip/v1/default/192.168.1.5', `put ${canary}`].map(
    (event) => order.indexOf(event),
  ) as [number, number, number];
  assert.ok(back >= 0 && back < fact && fact < again, order.join('\n'));
});

test('facts that someone removes, changes or adds are put right', async () => {
  const hub = await open();
  await hub.create('vm');
  await machineOf('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await until('it is complete', () => hub.status.complete);
  const before = await pair('192.168.1.5');
  await machines.remove('cilium/state/ip/v1/default/192.168.1.5');
  await until('it is back', async () => (await pair('192.168.1.5')) !== undefined);
  await etcd.put('cilium/state/ip/v1/default/192.168.1.5', addressValue({ ip: '192.168.1.5', identity: 2 }));
  await until('it is right', async () => (await pair('192.168.1.5'))?.ID === before?.ID);
  await etcd.put('cilium/state/ip/v1/default/1.1.1.1', addressValue({ ip: '1.1.1.1', identity: 2 }));
  await until('it is gone', async () => (await pair('1.1.1.1')) === undefined);
});

test('a store that lost its data is filled again, canaries last, once the workloads are back', async () => {
  const hub = await open();
  await hub.create('vm', { labels: { app: 'web' } });
  const machine = machineOf('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await until('it is complete', () => hub.status.complete);
  const saved = await machines.list('mesh-agent/v1/');
  await etcd.reset();
  for (const { key, value } of saved)
    if (!key.startsWith('leader')) await etcd.put(`mesh-agent/v1/${key}`, value.toString());
  const answer = await machine.answer();
  machine.report(answer, [['InternalIP', '192.168.1.5']]);
  await until('it leads again', () => hub.leading && hub.status.complete, 30_000);
  await until('it is published', async () => (await pair('192.168.1.5'))?.ID === answer.NodeIdentity);
  assert.notEqual(await get('cilium/synced/vms/cilium/state/ip/v1'), undefined);
  assert.notEqual(await get(`cilium/state/identities/v1/id/${answer.NodeIdentity}`), undefined);
});
