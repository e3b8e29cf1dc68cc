import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openMachineAccess } from '../../src/hub/etcd/machine-access.ts';
import type { Connection } from '../../src/kvstore/connection.ts';
import { decodeShort } from '../../src/kvstore/messages.ts';
import { WireWriter } from '../../src/kvstore/wire.ts';
import type { WriterStore } from '../../src/kvstore/writer-store.ts';
import { until } from '../lab/namespace.ts';
import { HubProcess } from './hub-process.ts';

const OWN = 'cilium/state/noderegister/v1/vm1';
const forbidden = { code: 'KVS-AUTH', message: /permission denied/ };
let lab: HubProcess;
let admin: WriterStore;

before(async () => {
  lab = await HubProcess.make();
  await lab.run();
  admin = lab.open();
});
after(() => lab.close());

const access = (onRevoked: (user: string) => void = () => {}) =>
  openMachineAccess({ session: admin.session, cluster: 'vms', onRevoked });

test('a machine writes its own registration and nothing else, and reads what it needs and nothing else', async () => {
  await access().grant('vm1');
  await admin.put('mesh-agent/v1/tokens/a', 'secret');
  await admin.put('mesh-agent/v1/policies/a', 'policy');
  const vm = lab.open(await lab.client('machine:vm1'));
  await vm.put(OWN, 'mine');
  assert.equal((await admin.get(OWN))?.value.toString(), 'mine');
  assert.ok(await vm.remove(OWN));
  const others = [
    'cilium/state/noderegister/v1/vm2',
    `${OWN}/x`,
    'cilium/state/noderegister/v1/',
    'cilium/state/nodes/v1/vms/vm1',
    'cilium/state/ip/v1/default/10.0.0.1',
    'cilium/.heartbeat',
    'mesh-agent/v1/policies/a',
    'mesh-agent/v1/services/a/b',
    'mesh-agent/v1/lost/a',
    'mesh-agent/v1/leader',
    'anything',
  ];
  for (const key of others) {
    await assert.rejects(vm.put(key, 'x'), forbidden, `put ${key}`);
    await assert.rejects(vm.remove(key), forbidden, `remove ${key}`);
    await assert.rejects(vm.transact({ perform: [{ put: key, value: 'x' }] }), forbidden, `transaction ${key}`);
    await assert.rejects(
      vm.transact({ when: [{ key: 'no', version: 9 }], otherwise: [{ put: key, value: 'x' }] }),
      forbidden,
    );
    await assert.rejects(
      vm.transact({ perform: [{ transaction: { perform: [{ put: key, value: 'x' }] } }] }),
      forbidden,
    );
  }
  for (const key of [
    'mesh-agent/v1/policies/a',
    'mesh-agent/v1/services/a/b',
    'mesh-agent/v1/lost/a',
    'cilium/state/ip/v1/default/x',
    'cilium/cache/x',
    'cilium/.heartbeat',
  ])
    await vm.get(key);
  for (const key of [
    'mesh-agent/v1/tokens/a',
    'mesh-agent/v1/workloads/x',
    'mesh-agent/v1/leader',
    'mesh-agent/v1/clusters/a',
  ])
    await assert.rejects(vm.get(key), forbidden, `get ${key}`);
  for (const prefix of ['', 'mesh-agent/', 'mesh-agent/v1/tokens/', 'cilium/'])
    await assert.rejects(vm.list(prefix === '' ? 'a' : prefix), forbidden, `list ${prefix}`);
  const watched: string[] = [];
  const watch = vm.watchPrefix('mesh-agent/v1/tokens/', {
    listing() {},
    put: (key) => watched.push(key),
    remove() {},
    listed() {},
  });
  await until('the watch is refused', () => watch.lastError !== undefined);
  assert.match(watch.lastError ?? '', /permission denied/);
  assert.deepEqual(watched, []);
});

/** A call as the machine may make it, whatever it contains; only its success or failure counts. */
function call(store: WriterStore, method: string, message: Buffer = Buffer.alloc(0)): Promise<unknown> {
  return store.session.request(method, message, (data) => ({ header: decodeShort(data).header }));
}

test('what etcd itself would do without asking for rights never gets to it', async () => {
  await access().grant('vm1');
  const vm = lab.open(await lab.client('machine:vm1'));
  await admin.put('mesh-agent/v1/tokens/a', 'secret');
  const nested = (operation: object) => vm.transact({ perform: [{ transaction: { perform: [operation as never] } }] });
  await assert.rejects(nested({ put: 'mesh-agent/v1/policies/evil', value: 'x' }), forbidden);
  await assert.rejects(nested({ get: 'mesh-agent/v1/tokens/a' }), forbidden);
  await assert.rejects(vm.transact({ otherwise: [{ transaction: {} }] }), forbidden);
  const { lease } = (await admin.read('mesh-agent/v1/leader')) ?? { lease: '0' };
  await assert.rejects(vm.transact({ perform: [{ put: OWN, value: 'x', lease }] }), forbidden);
  await assert.rejects(
    call(vm, 'Lease/LeaseTimeToLive', new WireWriter().uint(1, BigInt(`0x${lease}`)).finish()),
    forbidden,
  );
  const open = new WireWriter().message(1, new WireWriter().bytes(1, 'cilium/state/').bytes(2, Buffer.from([0])));
  const stream = await watchWith(vm, open.finish());
  await admin.put('mesh-agent/v1/tokens/b', 'secret');
  await until('the stream was ended', () => stream.ended);
  assert.ok(!stream.bytes.includes('secret'));
  assert.equal(await admin.get('mesh-agent/v1/policies/evil'), undefined);
});

/** Sends one message on a watch stream, and keeps what comes back. */
async function watchWith(
  store: WriterStore,
  message: Buffer,
): Promise<{ readonly ended: boolean; readonly bytes: Buffer }> {
  const result = { ended: false, bytes: Buffer.alloc(0) as Buffer };
  const connected = Promise.withResolvers<Connection>();
  store.session.follow({ connect: connected.resolve, disconnect() {}, forget() {} });
  const stream = (await connected.promise).transport.stream('Watch/Watch');
  stream.on('data', (data: Buffer) => {
    result.bytes = Buffer.concat([result.bytes, data]);
  });
  stream.on('error', () => {
    result.ended = true;
  });
  stream.write(message);
  return result;
}

test('a machine reads no users and makes none, compacts nothing, raises no alarm and takes no snapshot', async () => {
  await access().grant('vm1');
  const vm = lab.open(await lab.client('machine:vm1'));
  const name = new WireWriter().bytes(1, 'machine:evil').finish();
  for (const method of ['Auth/UserAdd', 'Auth/UserDelete', 'Auth/RoleAdd', 'Auth/UserList', 'Auth/AuthDisable'])
    await assert.rejects(call(vm, method, name), forbidden, method);
  const compact = new WireWriter().uint(1, 2).finish();
  const alarm = new WireWriter().uint(1, 1).uint(2, 1).uint(3, 1).finish();
  await assert.rejects(call(vm, 'KV/Compact', compact), forbidden);
  await assert.rejects(call(vm, 'Maintenance/Alarm', alarm), forbidden);
  for (const method of [
    'Maintenance/Defragment',
    'Maintenance/Snapshot',
    'Maintenance/Status',
    'Cluster/MemberList',
    'Cluster/MemberAdd',
  ])
    await assert.rejects(call(vm, method), forbidden, method);
  const { etcd } = await lab.status();
  assert.deepEqual(etcd.alarms, []);
});

test('a lease of someone else cannot be ended, and its keys stay', async () => {
  await access().grant('vm1');
  const vm = lab.open(await lab.client('machine:vm1'));
  const leader = await admin.read('mesh-agent/v1/leader');
  assert.ok(leader);
  const message = new WireWriter().uint(1, BigInt(`0x${leader.lease}`)).finish();
  await assert.rejects(call(vm, 'Lease/LeaseRevoke', message), forbidden);
  assert.equal((await admin.read('mesh-agent/v1/leader'))?.createRevision, leader.createRevision);
});

test('etcd itself takes no certificate of a machine, and the guard none with a name of the hub', async () => {
  const direct = lab.open({ ...(await lab.client('machine:vm1')), endpoints: lab.admin().endpoints });
  const posing = ['root', 'admin-vms', 'peer-vms'].map(async (name) => lab.open(await lab.client(name)));
  for (const store of [direct, ...(await Promise.all(posing))]) {
    await until('it is refused', () => store.status.lastFailure !== undefined);
    assert.notEqual(store.status.state, 'connected');
  }
});

test('certificates without a user, and connections without a certificate, do nothing', async () => {
  const stranger = lab.open(await lab.client('machine:nobody'));
  await assert.rejects(stranger.get('cilium/.heartbeat'), { code: 'KVS-AUTH' });
  const { endpoints, ca } = lab.admin();
  const bare = lab.open({ endpoints, ...(ca !== undefined && { ca }) });
  await until('the bare client is refused', () => bare.status.lastFailure !== undefined);
  assert.notEqual(bare.status.state, 'connected');
});

test('what was granted half, or too much, is healed', async () => {
  await access().grant('vm3');
  const { AccessControl } = await import('../../src/kvstore/access-control.ts');
  const control = new AccessControl(admin.session.request);
  await control.ensureRole('machine:vm3', [{ may: 'readwrite', prefix: 'cilium/' }]);
  await control.ensureUser('machine:vm3', ['root']);
  await access().grant('vm3');
  assert.deepEqual([...((await control.roles('machine:vm3')) ?? [])].sort(), ['machine', 'machine:vm3']);
  const vm = lab.open(await lab.client('machine:vm3'));
  await vm.put('cilium/state/noderegister/v1/vm3', 'x');
  await assert.rejects(vm.put(OWN, 'x'), forbidden);
  assert.ok((await access().machines()).includes('vm3'));
});

test('a revoked machine neither reads nor writes from that moment, its registration is gone, and so it stays', async () => {
  await access().grant('vm1');
  const vm = lab.open(await lab.client('machine:vm1'));
  const own = vm.own(OWN, 'mine');
  await until('it is registered', () => own.written);
  const revoked: string[] = [];
  await access((user) => revoked.push(user)).revoke('vm1');
  assert.deepEqual(revoked, ['machine:vm1']);
  assert.equal(await admin.get(OWN), undefined);
  await assert.rejects(vm.put(OWN, 'x'), { code: 'KVS-AUTH' });
  await assert.rejects(vm.get('cilium/.heartbeat'), { code: 'KVS-AUTH' });
  await until('it tried to register again', () => own.lastError !== undefined);
  assert.equal(await admin.get(OWN), undefined);
  await access().revoke('vm1');
  assert.ok(!(await access().machines()).includes('vm1'));
});

test('what a revoked machine watches ends with its rights, and no other machine is disturbed', async () => {
  await access().grant('vm1');
  await access().grant('vm2');
  const seen = { vm1: [] as string[], vm2: [] as string[] };
  const follow = async (name: 'vm1' | 'vm2'): Promise<WriterStore> => {
    const store = lab.open(await lab.client(`machine:${name}`));
    const watch = store.watchPrefix('cilium/cache/', {
      listing() {},
      put: (key) => seen[name].push(key),
      remove() {},
      listed() {},
    });
    await until('it watches', () => watch.synced);
    return store;
  };
  const [vm1, vm2] = [await follow('vm1'), await follow('vm2')];
  await admin.put('cilium/cache/a', '1');
  await until('both saw it', () => seen.vm1.includes('a') && seen.vm2.includes('a'));
  // Over the hub's own access, which ends the connections.
  await lab.revoke('vm1');
  await until('its connection ended', () => vm1.status.reconnections > 0 || vm1.status.state !== 'connected');
  await admin.put('cilium/cache/b', '1');
  await until('the other one goes on', () => seen.vm2.includes('b'));
  assert.deepEqual([seen.vm1.includes('b'), vm2.status.reconnections], [false, 0]);
});

test('a connection ends with the life of its certificate', async () => {
  await access().grant('vm1');
  const vm = lab.open(await lab.client('machine:vm1', 2));
  await vm.get('cilium/.heartbeat');
  await until('it is cut', () => vm.status.state === 'failed', 8000);
});

test('many grants at once do not disturb a writer', async () => {
  const stop = new AbortController();
  const writing = (async () => {
    for (let i = 0; !stop.signal.aborted; i++)
      await admin.transact({ perform: [{ put: 'mesh-agent/v1/test', value: String(i) }] });
  })();
  const names = Array.from({ length: 20 }, (_, index) => `many${index}`);
  await Promise.all(names.map((name) => access().grant(name)));
  await Promise.all(names.map((name) => access().revoke(name)));
  stop.abort();
  await writing;
});

test('a remote cluster reads the state and its own markers alone, until it is revoked', async () => {
  await access().grantCluster('east');
  await access().grantCluster('east');
  const east = lab.open(await lab.client('remote-east'));
  for (const key of ['cilium/state/x', 'cilium/cluster-config/vms', 'cilium/synced/vms/x', 'cilium/.heartbeat'])
    await east.get(key);
  for (const key of [
    'cilium/cache/x',
    'cilium/cluster-config/other',
    'mesh-agent/v1/policies/a',
    'mesh-agent/v1/services/a/b',
    'mesh-agent/v1/lost/a',
    'mesh-agent/v1/tokens/a',
  ])
    await assert.rejects(east.get(key), forbidden, key);
  await assert.rejects(east.put('cilium/state/x', 'y'), forbidden);
  await access().revokeCluster('east');
  await assert.rejects(east.get('cilium/state/x'), { code: 'KVS-AUTH' });
});
