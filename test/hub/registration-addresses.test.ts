import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lab/namespace.ts';
import { addressValue } from '../lab/values.ts';
import { HubScene, registered } from './hub-scene.ts';

const scene = new HubScene();

test('addresses that a machine must not have are refused and shown, the others are published', async () => {
  await scene.neighbor({ router: '10.9.0.99' });
  const hub = await scene.lead();
  await hub.create('first');
  await hub.create('second');
  await scene.machine('first').join(['InternalIP', '192.168.1.5']);
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
  await scene.machine('second').join(...addresses.slice(0, 8), ['InternalIP', '192.168.1.6'], ...addresses.slice(8));
  await registered(hub, 'second');
  const record = await hub.get('second');
  assert.deepEqual(record.addresses, ['192.168.1.6']);
  assert.equal(record.refused.length, 16);
  for (const { address, reason } of record.refused) assert.match(reason, wrong[address] ?? /never/, address);
  assert.deepEqual(await scene.published('second'), ['10.192.0.4/30', '192.168.1.6', 'fd00:192::4/126']);
  assert.equal((await scene.pair('192.168.1.5'))?.HostIP, '192.168.1.5');
});

test('router and health addresses outside of the own range, and more addresses than a machine has, are refused', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  const machine = scene.machine('vm');
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
  assert.match(
    (await scene.get('cilium/state/nodes/v1/vms/vm')) ?? '',
    /"IPv4HealthIP":"","IPv6HealthIP":"fd00:192::2"/,
  );
});

test('an address goes to whoever waits for it when its machine gives it up', async () => {
  const hub = await scene.lead();
  await hub.create('first');
  await hub.create('second');
  const first = scene.machine('first');
  const answer = await first.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'first');
  await scene.machine('second').join(['InternalIP', '192.168.1.5']);
  await until('it is refused', async () => (await hub.get('second')).refused.length === 1);
  assert.equal((await hub.get('second')).state, 'waiting');
  assert.match((await hub.get('second')).reason ?? '', /no address of its own/);
  first.report(answer, [['InternalIP', '192.168.1.9']]);
  await registered(hub, 'second');
  assert.equal(JSON.stringify(await scene.pair('192.168.1.5')).includes('"second"'), true);
});

test('a cluster that claims an address later does not knock the machine out, and is told', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await scene.etcd.put(
    'cilium/cache/ip/v1/cluster-b/192.168.1.5',
    addressValue({ ip: '192.168.1.5', identity: 131_073 }),
  );
  await until('it is told', () =>
    hub.troubles.some(({ code, text }) => code === 'HUB-OVERLAP' && text.includes('cluster-b')),
  );
  assert.notEqual(await scene.pair('192.168.1.5'), undefined);
  await until('it is shown', async () => /also in use/.test((await hub.get('vm')).reason ?? ''));
});
