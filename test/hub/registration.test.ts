import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lab/namespace.ts';
import { labelString } from '../lab/values.ts';
import { HubScene, registered } from './hub-scene.ts';
import { type Answer, announcement, REGISTER } from './machine.ts';

const scene = new HubScene();

test('both phases, byte for byte as Cilium 1.16 does them', async () => {
  const config = `{cluster: {name: cluster1, id: 1}, pools: [], names: [hub.example.com]}`;
  const hub = await scene.lead({ config });
  await hub.create('runtime', { labels: { app: 'vm' }, ipv4AllocCidr: '10.192.1.0/30' });
  // The identity of the example, as an earlier allocation left it.
  const labels = 'k8s:app=vm;k8s:io.cilium.k8s.policy.cluster=cluster1;k8s:io.kubernetes.pod.namespace=default;';
  await scene.etcd.put('cilium/state/identities/v1/id/66544', labels);
  const machine = scene.machine('runtime');
  await machine.answer();
  assert.equal(
    await scene.get(`${REGISTER}runtime`),
    '{"Name":"runtime","Cluster":"cluster1","IPAddresses":null,"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"/////A=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"kvstore","EncryptionKey":0,"Labels":{"app":"vm","io.cilium.k8s.policy.cluster":"cluster1","io.kubernetes.pod.name":"runtime","io.kubernetes.pod.namespace":"default"},"Annotations":null,"NodeIdentity":66544,"WireguardPubKey":"","BootID":""}',
  );
  await machine.join(['InternalIP', '192.168.56.10'], ['CiliumInternalIP', '10.192.1.1'], ['InternalIP', 'fd00::10']);
  await registered(hub, 'runtime');
  await until('it is published', async () => (await scene.published('runtime')).length === 4);
  assert.equal(
    await scene.get('cilium/state/nodes/v1/cluster1/runtime'),
    '{"Name":"runtime","Cluster":"cluster1","IPAddresses":[{"Type":"InternalIP","IP":"192.168.56.10"},{"Type":"CiliumInternalIP","IP":"10.192.1.1"},{"Type":"InternalIP","IP":"fd00::10"}],"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"/////A=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"kvstore","EncryptionKey":0,"Labels":{"kubernetes.io/hostname":"runtime"},"Annotations":null,"NodeIdentity":6,"WireguardPubKey":"","BootID":""}',
  );
  const host =
    '"HostIP":"192.168.56.10","ID":66544,"Key":0,"Metadata":"","K8sNamespace":"default","K8sPodName":"runtime"}';
  assert.equal(
    await scene.get('cilium/state/ip/v1/default/192.168.56.10'),
    `{"IP":"192.168.56.10","Mask":null,${host}`,
  );
  assert.equal(await scene.get('cilium/state/ip/v1/default/fd00::10'), `{"IP":"fd00::10","Mask":null,${host}`);
  assert.equal(
    await scene.get('cilium/state/ip/v1/default/10.192.1.0/30'),
    `{"IP":"10.192.1.0","Mask":"/////A==",${host}`,
  );
  assert.deepEqual((await hub.get('runtime')).claims, []);
});

test('machines with equal labels share an identity, others do not', async () => {
  const hub = await scene.lead();
  for (const [name, app] of [
    ['a', 'web'],
    ['b', 'web'],
    ['c', 'db'],
  ] as const)
    await hub.create(name, { labels: { app } });
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => scene.machine(name).answer()));
  assert.equal(a?.NodeIdentity, b?.NodeIdentity);
  assert.notEqual(a?.NodeIdentity, c?.NodeIdentity);
  const labels = { app: 'web', 'io.cilium.k8s.policy.cluster': 'vms', 'io.kubernetes.pod.namespace': 'default' };
  assert.equal(await scene.get(`cilium/state/identities/v1/id/${a?.NodeIdentity}`), labelString(labels));
});

test('what a machine claims beside its addresses is overridden and told, and not argued about for ever', async () => {
  const hub = await scene.lead();
  await hub.create('vm', { labels: { app: 'web' } });
  const machine = scene.machine('vm');
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
  scene.machines.watchKey(`${REGISTER}vm`, {
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
  await until('the other address is published', async () => (await scene.pair('192.168.1.6')) !== undefined);
  await until('its claims are told', async () => (await hub.get('vm')).claims.length === 6);
  const record = await hub.get('vm');
  assert.match(
    record.claims.join('\n'),
    /cluster cluster-b instead of vms.*id 7 instead of 100.*identity 2 .*app=admin.*10\.0\.0\.0\/8.*ingress/s,
  );
  assert.deepEqual([record.agentVersion, record.policyRevision], ['1.2.3', null]);
  const found = await scene.pair('192.168.1.5');
  assert.equal(found?.ID, answer.NodeIdentity);
  const node = (await scene.get('cilium/state/nodes/v1/vms/vm')) ?? '';
  assert.match(node, /"IPv4AllocCIDR":\{"IP":"10\.192\.0\.0","Mask":"\/{5}A=="\}/);
  assert.match(node, /"Cluster":"vms".*"IPv4IngressIP":"".*"ClusterID":100.*"NodeIdentity":6/);
  await until('health says so', () =>
    hub.troubles.some(({ code, text }) => code === 'HUB-REGISTRATION' && text.includes('vm')),
  );
  const last = JSON.parse(writes.at(-1) ?? '{}') as Answer;
  assert.notEqual(last.IPAddresses, null, 'it was told before, and does not listen');
});

test('a registration that cannot be used changes nothing, is told, and heals', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  const machine = scene.machine('vm');
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
    assert.notEqual(await scene.pair('192.168.1.5'), undefined);
  }
  machine.report(answer, [['InternalIP', '192.168.1.6']]);
  await until('it is fine again', async () => (await hub.get('vm')).reason === null);
  await until('nothing of before is left', async () => (await scene.pair('192.168.1.5')) === undefined);
  await until('health is clear', () => hub.troubles.length === 0);
});

test('live label changes reach the machine and its peers; an agent that does not listen is overridden', async () => {
  const hub = await scene.lead();
  await hub.create('vm', { labels: { app: 'web' } });
  const machine = scene.machine('vm');
  const before = await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await hub.ask('PUT', 'workloads/vm', { labels: { app: 'db' } });
  const after = await machine.answer();
  assert.equal(after.Labels.app, 'db');
  assert.notEqual(after.NodeIdentity, before.NodeIdentity);
  await until('peers see it', async () => (await scene.pair('192.168.1.5'))?.ID === after.NodeIdentity);
  // Cilium's agent writes its own value again after a while, with what it was told first.
  machine.report(before, [['InternalIP', '192.168.1.5']]);
  await until('that is shown', async () => (await hub.get('vm')).claims.length === 2);
  assert.equal((await scene.pair('192.168.1.5'))?.ID, after.NodeIdentity);
  machine.report(after, [['InternalIP', '192.168.1.5']]);
  await until('it is fine', async () => (await hub.get('vm')).claims.length === 0);
  const users = await scene.machines.list('cilium/state/identities/v1/value/');
  assert.equal(users.length, 1, 'the identity of before is released');
});

test('a registration without a lease is not answered: it would never end', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  await scene.etcd.put(`${REGISTER}vm`, announcement('vm'));
  await until('it is told', async () => /no lease/.test((await hub.get('vm')).reason ?? ''));
  assert.equal(await scene.get(`${REGISTER}vm`), announcement('vm'));
});

test('a machine is answered as soon as its workload exists, and not before', async () => {
  const hub = await scene.lead();
  const machine = scene.machine('vm');
  await until('it is told', () => hub.troubles.some(({ text }) => /no workload of that name/.test(text)));
  assert.equal(await scene.get(`${REGISTER}vm`), announcement('vm'));
  await hub.create('vm');
  assert.equal((await machine.answer()).Cluster, 'vms');
});
