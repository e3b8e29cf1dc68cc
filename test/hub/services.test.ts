import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { HubServiceChanged, HubServiceRecord, HubServiceRefused } from '../../src/hub/services/records.ts';
import type { ServiceRequest } from '../../src/hub/services/service-request.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { runHere } from '../cli/run-here.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { HubLab, type HubLabOptions } from './hub-lab.ts';
import { HubProcess } from './hub-process.ts';
import { type Answer, announcement, Machine } from './machine.ts';

const CONFIG = `
cluster: {name: vms, id: 100}
pools: [10.192.0.0/16]
services: {pools: [10.193.0.0/30]}
names: [hub.example.com, 192.0.2.1]
`;
const KEY = 'cilium/state/services/v1/vms/shop/api';
const API: Partial<ServiceRequest> = {
  name: 'api',
  namespace: 'shop',
  ports: ['80:8080/tcp'],
  selector: { app: 'api' },
  global: true,
};
const WORKLOAD = { namespace: 'shop', labels: { app: 'api' } };

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
  machines = openWriterStore({
    etcd: async () => ({ endpoints: etcd.endpoints }),
    timing: { retryMinMs: 50, retryMaxMs: 300 },
  });
});
afterEach(async () => {
  await machines.close();
  await Promise.all(hubs.map((hub) => hub.stop()));
  hubs = [];
});

async function open(options: Partial<HubLabOptions> = {}): Promise<HubLab> {
  const hub = await HubLab.start({ etcd, config: CONFIG, ...options });
  hubs.push(hub);
  await until('it leads', () => hub.leading);
  return hub;
}

async function joined(hub: HubLab, name: string, ip: string, more: object = WORKLOAD): Promise<[Machine, Answer]> {
  await hub.create(name, more);
  const machine = new Machine(machines, name);
  return [machine, await machine.join(['InternalIP', ip])];
}

const create = (hub: HubLab, more: Partial<ServiceRequest> = {}) =>
  hub.ask<HubServiceChanged | HubServiceRefused>('POST', 'services', { ...API, ...more });
const get = (hub: HubLab, key = 'shop/api') => hub.ask<HubServiceRecord>('GET', `services/${key}`);
const value = async (key = KEY) =>
  JSON.parse((await machines.get(key))?.value.toString() ?? 'null') as Record<string, never> | null;
const backends = async (): Promise<string[]> => Object.keys((await value())?.backends ?? {}).sort();
const published = (...ips: string[]): Promise<void> =>
  until(
    `${ips} are published`,
    async () => (await value()) !== null && (await backends()).join() === ips.sort().join(),
  );
const findings = (answer: HubServiceChanged | HubServiceRefused): string[] =>
  answer.kind === 'HubServiceValidation' ? answer.items.map(({ field, message }) => `${field}: ${message}`) : [];

test('machines with the labels are backends, and follow labels, namespace, revocation and deletion', async () => {
  const hub = await open();
  await joined(hub, 'one', '192.168.1.1');
  await joined(hub, 'two', '192.168.1.2');
  await joined(hub, 'other', '192.168.1.3', { namespace: 'default', labels: { app: 'api' } });
  const made = await create(hub);
  assert.equal(made.kind === 'HubServiceChanged' && made.change, 'created');
  await published('192.168.1.1', '192.168.1.2');
  assert.deepEqual(await value(), {
    cluster: 'vms',
    namespace: 'shop',
    name: 'api',
    frontends: {},
    backends: {
      '192.168.1.1': { '': { Protocol: 'TCP', Port: 8080 } },
      '192.168.1.2': { '': { Protocol: 'TCP', Port: 8080 } },
    },
    hostnames: {},
    labels: {},
    selector: { app: 'api' },
    includeExternal: true,
    shared: true,
    clusterID: 100,
  });
  await hub.ask('PUT', 'workloads/two', { labels: { app: 'db' } });
  await published('192.168.1.1');
  await hub.ask('PUT', 'workloads/two', { labels: { app: 'api' } });
  await published('192.168.1.1', '192.168.1.2');
  await hub.ask('DELETE', 'workloads/two');
  await published('192.168.1.1');
  await hub.ask('DELETE', 'services/shop/api');
  await until('it is withdrawn', async () => (await value()) === null);
  await assert.rejects(get(hub), { code: 'HUB-SERVICE-MISSING' });
  await assert.rejects(hub.ask('DELETE', 'services/shop/api'), { code: 'HUB-SERVICE-MISSING' });
});

test('the facts of services are there before the canary that says so', async () => {
  const first = await open();
  await create(first);
  await published();
  const seen: string[] = [];
  const watch = machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void seen.push(`cilium/${key}`),
    remove() {},
    listed() {},
  });
  await until('it watches', () => watch.synced);
  await first.stop();
  hubs = [];
  await etcd.ctl('del', '--prefix', 'cilium/');
  seen.length = 0;
  await open();
  const canary = 'cilium/synced/vms/cilium/state/services/v1';
  await until('the canary is there', () => seen.includes(canary));
  assert.ok(seen.includes(KEY) && seen.indexOf(KEY) < seen.indexOf(canary), seen.join('\n'));
});

test('what a machine reports of itself decides; what it says of services that do not select it is not even kept', async () => {
  const hub = await open();
  const [one, answer] = await joined(hub, 'one', '192.168.1.1');
  await joined(hub, 'two', '192.168.1.2');
  await create(hub, { checks: ['tcp'] });
  await published();
  await until('it is told why', async () => /does not check/.test((await get(hub)).backends[0]?.reason ?? ''));
  const report = (checks: object, more: object = {}): void =>
    one.report(answer, [['InternalIP', '192.168.1.1']], {
      Annotations: { 'mesh-agent.io/version': '1.0.0', 'mesh-agent.io/checks': JSON.stringify(checks), ...more },
    });
  report({ 'shop/api': { 4: [1000] }, 'shop/foreign': { 4: [1000] } });
  await published('192.168.1.1');
  const kept = (await machines.get('mesh-agent/v1/registrations/one'))?.value.toString() ?? '';
  assert.ok(kept.includes('shop/api') && !kept.includes('foreign'), kept);
  report({ 'shop/api': { 4: [2000, 'tcp/8080: connection refused'] } });
  await published();
  const [row] = (await get(hub)).backends;
  assert.deepEqual(row, {
    workload: 'one',
    address: '192.168.1.1',
    state: 'unhealthy',
    since: 2000,
    reason: 'tcp/8080: connection refused',
  });
  await until('the hub tells', () => hub.troubles.some(({ code }) => code === 'HUB-SERVICE-IDLE'));
  report({ 'shop/api': { 4: [3000] } });
  await published('192.168.1.1');
  await until('it is over', () => hub.troubles.every(({ code }) => code !== 'HUB-SERVICE-IDLE'));
  report({ 'shop/api': { 4: [3000] } }, { 'mesh-agent.io/drained': '4000' });
  await published();
  assert.equal((await get(hub)).backends[0]?.state, 'draining');
  assert.equal((await hub.get('one')).drained, 4000);
  report({ 'shop/api': { 4: [3000] } });
  await published('192.168.1.1');
  assert.match(await hub.metrics(), /mesh_agent_hub_service_backends\{state="active"\} 1\n/);
});

test('an announcement in between takes nobody out, and neither does a change of leaders', async () => {
  const first = await open();
  const [one, answer] = await joined(first, 'one', '192.168.1.1');
  await create(first, { checks: ['tcp'] });
  const report = { 'mesh-agent.io/checks': JSON.stringify({ 'shop/api': { 4: [1000] } }) };
  one.report(answer, [['InternalIP', '192.168.1.1']], { Annotations: report });
  await published('192.168.1.1');
  const lost: string[][] = [];
  const watch = machines.watchKey(KEY, {
    listing() {},
    put: (_key, text) => void lost.push(Object.keys(JSON.parse(text.toString()).backends)),
    remove: () => void lost.push(['removed']),
    listed() {},
  });
  await until('it watches', () => watch.synced);
  lost.length = 0;
  one.key.update(announcement('one'));
  const again = await one.answer();
  await first.stop();
  hubs = [];
  const next = await open();
  await until('it is complete', () => next.status.complete);
  one.report(again, [['InternalIP', '192.168.1.1']], { Annotations: report });
  await until('it is registered', async () => (await next.get('one')).state === 'registered');
  assert.deepEqual(
    lost.filter((each) => each.join() !== '192.168.1.1'),
    [],
  );
});

test('an address from the pool is one nobody else has, stays, and is free again', async () => {
  const hub = await open();
  const at = async (more: Partial<ServiceRequest>): Promise<readonly string[]> => {
    const answer = await create(hub, { addresses: ['auto'], ...more });
    assert.equal(answer.kind, 'HubServiceChanged', JSON.stringify(findings(answer)));
    return answer.kind === 'HubServiceChanged' ? answer.service.addresses : [];
  };
  assert.deepEqual(await at({}), ['10.193.0.1']);
  assert.deepEqual(await at({ name: 'b' }), ['10.193.0.2']);
  assert.deepEqual(await at({ name: 'c' }), ['10.193.0.3']);
  assert.match(findings(await create(hub, { name: 'd', addresses: ['auto'] })).join(), /no IPv4 address is free/);
  assert.deepEqual(await at({ name: 'b', ports: ['81'], replace: true }), ['10.193.0.2']);
  await hub.ask('DELETE', 'services/shop/b');
  assert.deepEqual(await at({ name: 'd' }), ['10.193.0.2']);
  await published();
  assert.deepEqual((await value())?.frontends, { '10.193.0.1': { '': { Protocol: 'TCP', Port: 80 } } });
});

test('an address that is somebody else’s is refused, and nobody gets that of a service', async () => {
  const hub = await open();
  await joined(hub, 'one', '192.168.1.1');
  await until('it is known', async () => (await hub.get('one')).addresses.length > 0);
  await create(hub, { addresses: ['10.50.0.1'] });
  const foreign = 'cilium/cache/services/v1/east/default/web';
  await etcd.put(foreign, '{"frontends":{"10.96.0.1":{"":{"Protocol":"TCP","Port":80}}}}');
  await etcd.put('cilium/cache/ip/v1/east/10.1.0.9', '{"IP":"10.1.0.9"}');
  await until('it is known', () => hub.facts.foreign.size > 0);
  const why = async (address: string): Promise<string> =>
    findings(await create(hub, { name: 'taker', addresses: [address] })).join();
  assert.match(await why('10.50.0.1'), /service shop\/api has it/);
  assert.match(await why('192.168.1.1'), /machine one has it/);
  assert.match(await why('10.192.0.9'), /pool of workloads/);
  assert.match(await why('10.96.0.1'), /address of service east\/default\/web/);
  assert.match(await why('10.1.0.9'), /cluster east/);
  assert.match(await why('192.0.2.1'), /the hub has it/);
  assert.match(await why('127.0.0.1'), /loopback/);
  await assert.rejects(hub.create('range', { ipv4AllocCidr: '10.50.0.0/24' }), /service shop\/api/);
  await hub.create('thief', WORKLOAD);
  const thief = new Machine(machines, 'thief');
  await thief.join(['InternalIP', '10.50.0.1']);
  await until('it is refused', async () => (await hub.get('thief')).refused.length === 1);
  assert.match((await hub.get('thief')).refused[0]?.reason ?? '', /address of service shop\/api/);
});

test('replaced as a whole, by whoever asked for it; the same once more changes nothing', async () => {
  const hub = await open();
  await create(hub);
  await assert.rejects(create(hub), { code: 'HUB-SERVICE-EXISTS' });
  const same = await create(hub, { replace: true });
  assert.equal(same.kind === 'HubServiceChanged' && same.change, 'unchanged');
  const other = await create(hub, { replace: true, selector: { app: 'api', tier: 'front' }, ports: ['http=80'] });
  assert.equal(other.kind === 'HubServiceChanged' && other.change, 'changed');
  assert.deepEqual((await get(hub)).selector, { app: 'api', tier: 'front' });
  await assert.rejects(hub.ask('POST', 'services', { ...API, colour: 'red' }), { code: 'API-REQUEST' });
  const refused = await create(hub, { name: 'x', ports: [], selector: {} });
  assert.equal(findings(refused).length, 2);
  assert.equal((await hub.ask<HubServiceRecord[]>('GET', 'services')).length, 1);
});

test('two hubs at once make one service, and give one address to one of them', async () => {
  const one = await open();
  const two = await HubLab.start({ etcd, config: CONFIG });
  hubs.push(two);
  const made = await Promise.allSettled([one, two].map((hub) => create(hub)));
  assert.deepEqual(made.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  const claimed = await Promise.allSettled(
    [one, two].map((hub, index) => create(hub, { name: `s${index}`, addresses: ['10.50.0.1'] })),
  );
  const changed = claimed.filter((each) => each.status === 'fulfilled' && each.value.kind === 'HubServiceChanged');
  assert.equal(changed.length, 1, JSON.stringify(claimed));
});

test('an object that nobody here can read is told, is not published, and can be replaced or deleted', async () => {
  const hub = await open();
  await etcd.put('mesh-agent/v1/services/shop/api', '{"version":2}');
  await etcd.put('mesh-agent/v1/services/shop/web', 'x');
  await until('the hub tells', () => hub.troubles.some(({ code }) => code === 'HUB-SERVICE-OBJECT'));
  assert.equal(await value(), null);
  await assert.rejects(create(hub), { code: 'HUB-SERVICE-EXISTS' });
  await create(hub, { replace: true });
  await published();
  await hub.ask('DELETE', 'services/shop/web');
  await until('all is well', () => hub.troubles.every(({ code }) => code !== 'HUB-SERVICE-OBJECT'));
});

test('a machine that is checked and stops to renew its lease is out soon, while its other facts stay, and comes back', async () => {
  const hub = await open({ timing: { livenessMs: 200 } });
  const [one, answer] = await joined(hub, 'one', '192.168.1.1');
  await create(hub, { checks: ['tcp'] });
  const report = { 'mesh-agent.io/checks': '{"shop/api":{"4":[1000]}}', 'mesh-agent.io/beat': '1' };
  one.key.renewEvery(1);
  one.report(answer, [['InternalIP', '192.168.1.1']], { Annotations: report });
  await published('192.168.1.1');
  one.key.renewEvery(undefined);
  await published();
  const [row] = (await get(hub)).backends;
  assert.deepEqual([row?.state, row?.reason], ['no-answer', 'it does not renew its lease']);
  assert.equal((await hub.get('one')).state, 'registered');
  assert.ok((await machines.get('cilium/state/ip/v1/default/192.168.1.1')) !== undefined);
  one.key.renewEvery(1);
  await published('192.168.1.1');
});

test('when most machines are silent at once, the way to the hub is suspected, and nobody is taken out', async () => {
  const hub = await open({ timing: { livenessMs: 200 } });
  const report = { 'mesh-agent.io/checks': '{"shop/api":{"4":[1000]}}', 'mesh-agent.io/beat': '1' };
  const ips = ['192.168.1.1', '192.168.1.2', '192.168.1.3'];
  const all: Machine[] = [];
  for (const [index, ip] of ips.entries()) {
    const [machine, answer] = await joined(hub, `vm-${index}`, ip);
    if (index === 0) await create(hub, { checks: ['tcp'] });
    machine.report(answer, [['InternalIP', ip]], { Annotations: report });
    all.push(machine);
  }
  await published(...ips);
  await until('it is told', () => hub.troubles.some(({ code }) => code === 'HUB-SILENCE'));
  assert.deepEqual(await backends(), ips);
  for (const { key } of all) key.renewEvery(1);
  await until('it is over', () => hub.troubles.every(({ code }) => code !== 'HUB-SILENCE'));
});

test('the command line: what is wrong at once, then created, listed, shown and deleted', async () => {
  process.env.MESH_TEST_HUB_PARTS = 'all';
  const hub = await HubProcess.make();
  const run = (...args: string[]) => runHere(['hub', 'service', ...args, '--socket', hub.socket]);
  try {
    await hub.run();
    const bad = await run('create', 'Api', '--port', '80/icmp', '90000', '--selector', 'app=api', '--address', 'auto');
    assert.equal(bad.code, 1);
    assert.deepEqual(
      bad.stdout.split('\n').map((line) => line.split(':')[0]),
      ['ports[0]', 'name', 'ports[1]', 'Nothing was changed.', ''],
    );
    const ports = ['--port', 'http=80:8080', 'https=443:8443/tcp', '--selector', 'app=api', 'tier=front'];
    const made = await run('create', 'api', '--namespace', 'shop', ...ports, '--global', '--check', 'tcp');
    assert.equal(made.stdout, 'Service shop/api created; it selects 0 machines.\n');
    const again = await run('create', 'api', '--namespace', 'shop', ...ports);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /--replace/);
    assert.match((await run('list')).stdout, /shop\/api +http=80:8080\/tcp +global/);
    const { stdout } = await runHere(['hub', 'status', '--socket', hub.socket]);
    assert.match(stdout, /Services: +1 service on machines, 0 of 0 backends active/);
    const shown = (await run('get', 'shop/api')).stdout;
    assert.match(
      shown,
      /Checks: +tcp:8080, tcp:8443\nTiming: +every 5s, answer within 2s; in after 2 in a row, out after 3/,
    );
    assert.match((await run('get', 'api', '--namespace', 'shop', '-o', 'yaml')).stdout, /^kind: HubService$/m);
    assert.equal((await run('get', 'api')).code, 1);
    assert.equal((await run('delete', 'shop/api')).stdout, 'Service shop/api is deleted.\n');
    assert.doesNotMatch((await run('list')).stdout, /shop/);
  } finally {
    await hub.close();
  }
});
