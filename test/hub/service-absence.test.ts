import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { HubServiceRecord } from '../../src/hub/services/records.ts';
import type { ServiceRequest } from '../../src/hub/services/service-request.ts';
import { until } from '../lab/namespace.ts';
import type { HubLab, HubLabOptions } from './hub-lab.ts';
import { HubScene, registered } from './hub-scene.ts';

/** Machines whose connections end, and services on them that have no check. The time is shortened: one second. */
const AFTER_MS = 1000;
const CONFIG = `
cluster: {name: vms, id: 100}
pools: [10.192.0.0/16]
names: [hub.example.com, 192.0.2.1]
`;
const API: Partial<ServiceRequest> = { name: 'api', namespace: 'shop', ports: ['80'], selector: { app: 'api' } };

const scene = new HubScene();
const lead = (options: Partial<HubLabOptions> = {}): Promise<HubLab> =>
  scene.lead({ config: CONFIG, timing: { unreachableMs: AFTER_MS }, ...options });
const user = (name: string): string => `machine:${name}`;
const create = (hub: HubLab, more: Partial<ServiceRequest> = {}) =>
  hub.ask('POST', 'services', { ...API, global: true, ...more });
const rows = async (hub: HubLab, key = 'shop/api') =>
  (await hub.ask<HubServiceRecord>('GET', `services/${key}`)).backends;
const codes = (hub: HubLab): string[] => hub.troubles.map(({ code }) => code);

/** Registered machines vm-1, vm-2, ..., each connected to the hub. */
async function join(hub: HubLab, count: number, first = 1): Promise<string[]> {
  const names = Array.from({ length: count }, (_, index) => `vm-${first + index}`);
  for (const name of names) {
    await hub.create(name, { namespace: 'shop', labels: { app: 'api' } });
    hub.users.arrived(user(name));
    await scene.machine(name).join(['InternalIP', `192.168.1.${name.slice(3)}`]);
    await registered(hub, name);
  }
  return names;
}

async function published(key = 'api'): Promise<string> {
  const value = await scene.get(`cilium/state/services/v1/vms/shop/${key}`);
  const { backends } = JSON.parse(value ?? '{"backends":{}}') as { backends: object };
  return Object.keys(backends)
    .map((ip) => `vm-${ip.split('.')[3]}`)
    .sort()
    .join();
}
const serve = (names: readonly string[], key?: string): Promise<void> =>
  until(`${names} serve`, async () => (await published(key)) === [...names].sort().join());

test('a machine that no hub has a connection of is out after a while, is told of, and is back at once', async () => {
  const hub = await lead();
  const names = await join(hub, 3);
  await create(hub);
  await serve(names);
  hub.users.left(user('vm-2'));
  const gone = Date.now();
  await serve(['vm-1', 'vm-3']);
  assert.ok(Date.now() - gone >= AFTER_MS, 'not before the time');
  const row = (await rows(hub)).find(({ workload }) => workload === 'vm-2');
  assert.deepEqual([row?.state, row?.reason], ['no-answer', 'no hub has a connection of it']);
  assert.ok((row?.since ?? 0) >= gone - 100 && (row?.since ?? 0) <= Date.now());
  const record = await hub.get('vm-2');
  assert.equal(record.state, 'registered', 'its policies and addresses stay as they were');
  assert.equal(record.unreachable, row?.since);
  const told = hub.troubles.find(({ code }) => code === 'HUB-MACHINES-GONE');
  assert.match(told?.text ?? '', /^shop\/api: vm-2 since [0-9T:-]+Z$/);
  assert.match(await hub.metrics(), /mesh_agent_hub_workloads_unreachable 1/);
  hub.users.arrived(user('vm-2'));
  await serve(names);
  assert.equal((await hub.get('vm-2')).unreachable, null);
  await until('nothing is told any more', () => hub.troubles.length === 0);
});

test('a machine that connects anew in time, or to another hub, was never gone', async () => {
  const hub = await lead();
  const other = await scene.start({ config: CONFIG });
  const names = await join(hub, 3);
  await create(hub);
  await serve(names);
  const seen = new Set<string>();
  const watch = setInterval(() => void published().then((now) => seen.add(now)), 50);
  hub.users.left(user('vm-1'));
  hub.users.arrived(user('vm-1'));
  hub.users.left(user('vm-2'));
  other.users.arrived(user('vm-2'));
  // What a hub told lingers for two seconds before it is taken back.
  await until('both hubs tell', async () => {
    const keys = await scene.machines.list('mesh-agent/v1/connections/');
    return keys.filter(({ key }) => key.endsWith('/vm-2')).length === 1;
  });
  await delay(AFTER_MS * 2);
  clearInterval(watch);
  assert.deepEqual([...seen], [names.join()]);
});

test('at rest nothing is written for connections, however many there are', async () => {
  const hub = await lead();
  await join(hub, 5);
  await delay(500);
  const revision = await scene.etcd.revision();
  await delay(AFTER_MS * 3);
  const heartbeats = 2;
  assert.ok((await scene.etcd.revision()) - revision <= heartbeats);
});

test('when more than half of a service are missing at once all of it is kept; what is missing alone later is out', async () => {
  const hub = await lead();
  const names = await join(hub, 4);
  await create(hub);
  await serve(names);
  for (const name of ['vm-1', 'vm-2', 'vm-3']) hub.users.left(user(name));
  await until('it is told', () => codes(hub).includes('HUB-MACHINES-KEPT'));
  assert.ok(!codes(hub).includes('HUB-MACHINES-GONE'));
  assert.equal(await published(), names.join());
  await until('each row says it', async () =>
    (await rows(hub)).every(({ workload, state, reason }) =>
      workload === 'vm-4'
        ? reason === null
        : state === 'active' &&
          reason === 'no hub has a connection of it; kept: most of the service are missing at once',
    ),
  );
  assert.ok(((await hub.get('vm-1')).unreachable ?? 0) > 0);
  // The way is there again, and one machine does not come back over it.
  for (const name of ['vm-2', 'vm-3']) hub.users.arrived(user(name));
  await serve(['vm-2', 'vm-3', 'vm-4']);
  await until('it is told', () => codes(hub).join() === 'HUB-MACHINES-GONE');
});

test('machines that go one after the other are out one after the other, but the last one', async () => {
  const hub = await lead();
  const names = await join(hub, 3);
  await create(hub);
  await serve(names);
  hub.users.left(user('vm-1'));
  await serve(['vm-2', 'vm-3']);
  hub.users.left(user('vm-2'));
  await serve(['vm-3']);
  hub.users.left(user('vm-3'));
  await until('the last one is kept', () => codes(hub).includes('HUB-MACHINES-KEPT'));
  await delay(AFTER_MS);
  assert.equal(await published(), 'vm-3');
});

test('each service has its own rule: kept in one, out in the other', async () => {
  const hub = await lead();
  const names = await join(hub, 3);
  await create(hub);
  await hub.ask('PUT', 'workloads/vm-1', { labels: { role: 'admin' } });
  await create(hub, { name: 'admin', selector: { role: 'admin' } });
  await serve(names);
  await serve(['vm-1'], 'admin');
  hub.users.left(user('vm-1'));
  await serve(['vm-2', 'vm-3']);
  await until('both are told', () =>
    ['HUB-MACHINES-GONE', 'HUB-MACHINES-KEPT'].every((code) => codes(hub).includes(code)),
  );
  assert.equal(await published('admin'), 'vm-1');
});

test('a service with checks judges by its checks alone', async () => {
  const hub = await lead();
  await join(hub, 3);
  await create(hub, { checks: ['tcp'] });
  hub.users.left(user('vm-1'));
  await until('it is unreachable', async () => (await hub.get('vm-1')).unreachable !== null);
  const row = (await rows(hub)).find(({ workload }) => workload === 'vm-1');
  assert.equal(row?.reason, 'its agent does not check what it serves');
});

test('another leader gives everyone the time anew, but those that were out stay out until they come back', async () => {
  const first = await lead();
  const names = await join(first, 5);
  await create(first);
  await serve(names);
  first.users.left(user('vm-1'));
  await serve(names.slice(1));
  const seen = new Set<string>();
  await scene.stop(first);
  // As when its leases have run out: no machine has a connection to any hub.
  await scene.etcd.ctl('del', '--prefix', 'mesh-agent/v1/connections/');
  const watch = setInterval(() => void published().then((now) => seen.add(now)), 50);
  const second = await lead({ timing: { unreachableMs: 4 * AFTER_MS } });
  await delay(AFTER_MS);
  for (const name of ['vm-3', 'vm-4', 'vm-5']) second.users.arrived(user(name));
  await delay(AFTER_MS);
  clearInterval(watch);
  assert.deepEqual([...seen], [names.slice(1).join()]);
  await serve(['vm-3', 'vm-4', 'vm-5']);
  for (const name of ['vm-1', 'vm-2']) second.users.arrived(user(name));
  await serve(names);
});

test('a hub that dies takes back what it told, and the machines that do not come elsewhere are out', async () => {
  const leader = await lead();
  const dying = await scene.start({ config: CONFIG });
  const names = await join(leader, 3);
  await create(leader);
  await serve(names);
  dying.users.arrived(user('vm-1'));
  await until('the other tells', async () => {
    const keys = await scene.machines.list('mesh-agent/v1/connections/');
    return keys.some(({ key }) => !key.startsWith(leader.id) && key.endsWith('/vm-1'));
  });
  leader.users.left(user('vm-1'));
  // Without a word: what it told lives as long as its lease.
  await dying.store.close();
  await until('it is out', async () => (await published()) === 'vm-2,vm-3', 60_000);
});

test('switched off, nobody is taken out, and who was is back', async () => {
  const first = await lead();
  const names = await join(first, 3);
  await create(first);
  await serve(names);
  first.users.left(user('vm-1'));
  await serve(names.slice(1));
  await scene.stop(first);
  const config = CONFIG.concat('services: {unreachableAfter: 0}\n');
  const hub = await lead({ config, timing: {} });
  await serve(names);
  assert.equal((await hub.get('vm-1')).unreachable, null);
});
