import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lab/namespace.ts';
import { addressValue, configValue, nodeValue } from '../lab/values.ts';
import { HubLab } from './hub-lab.ts';
import { HubScene, registered } from './hub-scene.ts';
import { REGISTER } from './machine.ts';

const scene = new HubScene();

test('the cluster of the hub is what every peer expects, canaries last', async () => {
  const seen: string[] = [];
  const watch = scene.machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void seen.push(`cilium/${key}`),
    remove() {},
    listed() {},
  });
  await until('it watches', () => watch.synced);
  const lab = new HubLab({ etcd: scene.etcd });
  scene.own(lab);
  // A machine of before that waits: its facts belong to what the canaries announce.
  await scene.etcd.put('mesh-agent/v1/names/web', 'default');
  await scene.etcd.put(
    'mesh-agent/v1/workloads/default/web',
    '{"version":1,"uid":"00000000-0000-4000-8000-000000000001","name":"web","namespace":"default","labels":{},"created":"2026-01-01T00:00:00.000Z","changed":"2026-01-01T00:00:00.000Z"}',
  );
  scene.machines.own(
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
  await until('it is there', async () => (await scene.get(`${REGISTER}web`)) !== undefined);
  const hub = await scene.lead();
  await until('it is complete', () => hub.status.complete);
  const canary = (kind: string): string => `cilium/synced/vms/cilium/state/${kind}/v1`;
  const keys = ['ip', 'nodes', 'identities', 'services'].map(canary);
  for (const key of keys) assert.match((await scene.get(key)) ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, key);
  assert.equal(await scene.get('cilium/cluster-config/vms'), configValue(100, 'direct'));
  assert.match((await scene.get('cilium/.heartbeat')) ?? '', /Z$/);
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
    assert.notEqual((await scene.machines.read(key))?.lease ?? '0', '0', `${key} is under a lease`);
  assert.equal((await scene.machines.list('cilium/state/ip/v1/vms/')).length, 0);
  watch.close();
});

test('the heartbeat goes on', async () => {
  await scene.lead({ timing: { heartbeatMs: 1100 } });
  let beats = 0;
  scene.machines.watchKey('cilium/.heartbeat', { listing() {}, put: () => void beats++, remove() {}, listed() {} });
  await until('three beats', () => beats >= 3);
});

test('a hub that takes over leaves everything as it is, and goes on', async () => {
  const one = await scene.lead();
  for (const name of ['a', 'b', 'gone']) await one.create(name, { labels: { name } });
  const answers = await Promise.all(
    ['a', 'b', 'gone'].map((name, i) => scene.machine(name).join(['InternalIP', `192.168.1.${i + 5}`])),
  );
  for (const name of ['a', 'b', 'gone']) await registered(one, name);
  await until('all is written', () => one.status.complete && one.status.pendingKeys === 0);
  const other = await scene.start({ timing: { graceMs: 4000 } });
  const events: string[] = [];
  const watch = scene.machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void (watch.synced && events.push(`put ${key}`)),
    remove: (key) => void events.push(`remove ${key}`),
    listed() {},
  });
  await until('it watches', () => watch.synced);
  await scene.stop(one);
  await scene.machines.remove(`${REGISTER}gone`);
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
    assert.equal((await scene.pair(`192.168.1.${i + 5}`))?.ID, answer.NodeIdentity);
  await registered(other, 'a');
  await other.ask('PUT', 'workloads/b', { labels: { name: 'c' } });
  await until('it publishes', async () => (await scene.pair('192.168.1.6'))?.ID !== answers[1]?.NodeIdentity);
});

test('a hub stops at once, also while an identity waits for a lock that somebody holds', async () => {
  const hub = await scene.lead();
  await hub.create('vm', { labels: { app: 'web' } });
  const labels = 'k8s:app=web;k8s:io.cilium.k8s.policy.cluster=vms;k8s:io.kubernetes.pod.namespace=default;';
  await scene.etcd.put(`cilium/state/identities/v1/locks/${labels}/1`, '');
  scene.machine('vm');
  await until(
    'it waits',
    async () => (await scene.machines.list(`cilium/state/identities/v1/locks/${labels}/`)).length === 2,
  );
  let stopped = false;
  const stopping = scene.stop(hub).then(() => {
    stopped = true;
  });
  // A minute is how long a lock is waited for.
  await until('it stopped', () => stopped, 30_000);
  await stopping;
  assert.equal(
    (await scene.machines.list(`cilium/state/identities/v1/locks/${labels}/`)).length,
    1,
    'its place is free',
  );
});

test('canaries are taken back while a machine that registered is missing in the store', async () => {
  const one = await scene.lead();
  await one.create('vm');
  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(one, 'vm');
  await until('it is complete', () => one.status.complete);
  await scene.stop(one);
  await scene.machines.remove('cilium/state/nodes/v1/vms/vm');
  await scene.machines.remove('cilium/state/ip/v1/default/192.168.1.5');
  const order: string[] = [];
  const watch = scene.machines.watchPrefix('cilium/', {
    listing() {},
    put: (key) => void (watch.synced && order.push(`put ${key}`)),
    remove: (key) => void order.push(`remove ${key}`),
    listed() {},
  });
  await until('it watches', () => watch.synced);
  const two = await scene.lead();
  await until('it is complete', () => two.status.complete);
  const canary = 'synced/vms/cilium/state/ip/v1';
  await until('all was seen', () => order.includes(`put ${canary}`));
  const [back, fact, again] = [`remove ${canary}`, 'put state/ip/v1/default/192.168.1.5', `put ${canary}`].map(
    (event) => order.indexOf(event),
  ) as [number, number, number];
  assert.ok(back >= 0 && back < fact && fact < again, order.join('\n'));
});

test('facts that someone removes, changes or adds are put right', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await until('it is complete', () => hub.status.complete);
  const before = await scene.pair('192.168.1.5');
  await scene.machines.remove('cilium/state/ip/v1/default/192.168.1.5');
  await until('it is back', async () => (await scene.pair('192.168.1.5')) !== undefined);
  await scene.etcd.put('cilium/state/ip/v1/default/192.168.1.5', addressValue({ ip: '192.168.1.5', identity: 2 }));
  await until('it is right', async () => (await scene.pair('192.168.1.5'))?.ID === before?.ID);
  await scene.etcd.put('cilium/state/ip/v1/default/1.1.1.1', addressValue({ ip: '1.1.1.1', identity: 2 }));
  await until('it is gone', async () => (await scene.pair('1.1.1.1')) === undefined);
});

test('a store that lost its data is filled again, canaries last, once the workloads are back', async () => {
  const hub = await scene.lead();
  await hub.create('vm', { labels: { app: 'web' } });
  const machine = scene.machine('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await until('it is complete', () => hub.status.complete);
  const saved = await scene.machines.list('mesh-agent/v1/');
  await scene.etcd.reset();
  for (const { key, value } of saved)
    if (!key.startsWith('leader')) await scene.etcd.put(`mesh-agent/v1/${key}`, value.toString());
  const answer = await machine.answer();
  machine.report(answer, [['InternalIP', '192.168.1.5']]);
  await until('it leads again', () => hub.leading && hub.status.complete, 30_000);
  await until('it is published', async () => (await scene.pair('192.168.1.5'))?.ID === answer.NodeIdentity);
  assert.notEqual(await scene.get('cilium/synced/vms/cilium/state/ip/v1'), undefined);
  assert.notEqual(await scene.get(`cilium/state/identities/v1/id/${answer.NodeIdentity}`), undefined);
});
