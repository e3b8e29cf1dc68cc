import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { formatPrefix, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import type { NodeAddress } from '../../src/kvstore/codec/node.ts';
import { type Registered, Registration, type RegistrationOptions, routerAddress } from '../../src/mesh/registration.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { StoreClient } from '../lab/store-client.ts';
import { type Labels, nodeValue, REGISTRATIONS } from '../lab/values.ts';
import { Opened, openTestStore, type Place } from './following.ts';

const KEY = `${REGISTRATIONS}vm`;
const ANNOUNCED =
  '{"Name":"vm","Cluster":"","IPAddresses":null,"IPv4AllocCIDR":null,"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":0,"Source":"local","EncryptionKey":0,"Labels":null,"Annotations":null,"NodeIdentity":0,"WireguardPubKey":"","BootID":""}';
/** What Cilium 1.16's agent wrote in the third phase (kvstore specification 6.2), with our boot id. */
const REGISTERED =
  '{"Name":"vm","Cluster":"cluster1","IPAddresses":[{"Type":"InternalIP","IP":"192.168.56.1"},{"Type":"CiliumInternalIP","IP":"10.192.1.1"}],"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"/////A=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"local","EncryptionKey":0,"Labels":{"app":"vm","io.cilium.k8s.policy.cluster":"cluster1","io.kubernetes.pod.name":"vm","io.kubernetes.pod.namespace":"default"},"Annotations":{},"NodeIdentity":66544,"WireguardPubKey":"","BootID":"boot-1"}';
const LABELS = {
  app: 'vm',
  'io.cilium.k8s.policy.cluster': 'cluster1',
  'io.kubernetes.pod.name': 'vm',
  'io.kubernetes.pod.namespace': 'default',
};

interface Answer {
  readonly cluster?: string;
  readonly clusterId?: number;
  readonly identity?: number;
  readonly labels?: Labels;
  readonly range4?: string | undefined;
}

function answerValue({
  cluster = 'cluster1',
  clusterId = 1,
  identity = 66_544,
  labels = LABELS,
  ...rest
}: Answer = {}) {
  const range4 = 'range4' in rest ? rest.range4 : '10.192.1.0/30';
  return nodeValue({ name: 'vm', cluster, clusterId, source: 'kvstore', labels, range4, nodeIdentity: identity });
}

let etcd: Etcd;
let hub: StoreClient;
let opened: Opened;
before(async () => {
  etcd = await Etcd.start();
  hub = new StoreClient({ endpoints: etcd.endpoints });
});
after(async () => {
  await hub.close();
  await etcd.close();
});
beforeEach(() => {
  opened = new Opened();
});
afterEach(async () => {
  await opened.close();
  await hub.removePrefix('cilium/');
});

const QUICK = { answerMs: 200, refreshMs: 60_000 };
const PATIENT = { answerMs: 60_000, refreshMs: 60_000 };

function register(options: Partial<RegistrationOptions> = {}, place: Place = etcd) {
  const store = opened.add(openTestStore(place, () => registration.dataLost()));
  const own = { text: '192.168.56.1' };
  const states: string[] = [];
  const registration: Registration = new Registration({
    store,
    name: 'vm',
    expected: undefined,
    bootId: 'boot-1',
    addresses: ({ ranges4 }) => [
      address('InternalIP', own.text),
      ...ranges4.slice(0, 1).map((range) => ({ type: 'CiliumInternalIP', address: routerAddress(range) })),
    ],
    onChange: () => {
      if (states.at(-1) !== registration.state) states.push(registration.state);
    },
    timing: PATIENT,
    ...options,
  });
  const end = new AbortController();
  const running = registration.run(end.signal);
  opened.atEnd(async () => {
    end.abort();
    await registration.close({ leave: false });
    await running;
  });
  return { registration, store, states, own };
}

function address(type: string, text: string): NodeAddress {
  const parsed = parseAddress(text);
  if (parsed === undefined) throw new Error(text);
  return { type, address: parsed };
}

const adopted = (registration: Registration): Registered | undefined => registration.registered;
const isInStore = (value: string | undefined): Promise<void> =>
  until(`the key is ${value?.slice(0, 80) ?? 'gone'}`, async () => (await hub.get(KEY)) === value);
const becomes = (registration: Registration, state: string): Promise<void> =>
  until(`it is ${state}`, () => registration.state === state);
const identityIs = (registration: Registration, identity: number): Promise<void> =>
  until(`its identity is ${identity}`, () => registration.registered?.identity === identity);

async function registered(options: Partial<RegistrationOptions> = {}, place: Place = etcd) {
  const made = register(options, place);
  await isInStore(ANNOUNCED);
  await hub.put(KEY, answerValue());
  await becomes(made.registration, 'registered');
  return made;
}

test('announces its name alone, adopts the answer and publishes its addresses, byte for byte as Cilium does', async () => {
  const { registration } = register();
  await isInStore(ANNOUNCED);
  assert.equal(registration.state, 'announced');
  assert.equal(adopted(registration), undefined);
  assert.match(registration.waitingFor ?? '', /waiting for the cluster to answer .*noderegister\/v1\/vm/);
  assert.notEqual(registration.unansweredSince, undefined);
  await hub.put(KEY, answerValue());
  await isInStore(REGISTERED);
  await becomes(registration, 'registered');
  const found = adopted(registration);
  assert.deepEqual(found?.cluster, { name: 'cluster1', id: 1 });
  assert.equal(found?.identity, 66_544);
  assert.deepEqual(found?.ranges4.map(formatPrefix), ['10.192.1.0/30']);
  assert.deepEqual(
    found?.labels.map(({ text }) => text),
    Object.entries(LABELS).map(([key, value]) => `k8s:${key}=${value}`),
  );
  assert.equal(registration.waitingFor, undefined);
  assert.equal(registration.unansweredSince, undefined);
  assert.equal(registration.registrations, 1);
});

test('an answer that lies in the key before the first announcement is not for us', async () => {
  await hub.put(KEY, answerValue({ identity: 70_000 }));
  const { registration } = register();
  await isInStore(ANNOUNCED);
  assert.equal(adopted(registration), undefined);
  await hub.put(KEY, answerValue());
  await becomes(registration, 'registered');
  assert.equal(adopted(registration)?.identity, 66_544);
});

const REFUSED: [string, Answer | string, RegExp, RegistrationOptions['expected']?][] = [
  [
    'from another cluster than the configured one',
    { cluster: 'other' },
    /cluster other with id 1/,
    { name: 'cluster1', id: 1 },
  ],
  ['with another id than the configured one', { clusterId: 2, identity: 131_100 }, /id 2/, { name: 'cluster1', id: 1 }],
  ['without a cluster', { cluster: '' }, /names no cluster/],
  ['of a cluster without an id', { clusterId: 0, identity: 300 }, /has no id/],
  [
    'with an identity of another cluster',
    { identity: 200_000 },
    /identity 200000 is outside of the block of cluster id 1/,
  ],
  ['with a reserved identity', { identity: 2 }, /identity 2 is outside/],
  [
    'with labels of another cluster',
    { labels: { 'io.cilium.k8s.policy.cluster': 'evil' } },
    /=evil names another cluster/,
  ],
  ['that is garbage', 'garbage', /not JSON/],
  ['that is empty', '', /not JSON/],
  [
    'with another name',
    nodeValue({ name: 'other', cluster: 'cluster1', clusterId: 1, nodeIdentity: 66_544 }),
    /Name "other"/,
  ],
  ['with a broken range', answerValue().replace('/////A==', 'broken'), /Mask|mask/],
];
for (const [what, answer, reason, expected] of REFUSED) {
  test(`an answer ${what} is refused with the reason, until a good one follows`, async () => {
    const { registration } = register({ expected });
    await isInStore(ANNOUNCED);
    await hub.put(KEY, typeof answer === 'string' ? answer : answerValue(answer));
    await becomes(registration, 'refused');
    assert.equal(registration.refusal?.code, 'MSH-REFUSED');
    assert.match(registration.refusal.message, reason);
    assert.equal(registration.refusal.place, KEY);
    assert.equal(registration.waitingFor, registration.refusal.message);
    assert.equal(adopted(registration), undefined);
    registration.addressesChanged();
    await hub.put(KEY, answerValue());
    await becomes(registration, 'registered');
    assert.equal(registration.refusal, undefined);
    await isInStore(REGISTERED);
  });
}

test('a refused answer is asked for again, and what was adopted before stays in force', async () => {
  const { registration } = await registered({ timing: QUICK });
  await hub.put(KEY, answerValue({ identity: 200_000 }));
  await becomes(registration, 'refused');
  assert.equal(adopted(registration)?.identity, 66_544);
  await isInStore(ANNOUNCED);
  await hub.put(KEY, answerValue({ identity: 66_545 }));
  await identityIs(registration, 66_545);
  await becomes(registration, 'registered');
});

test('an announcement without an answer is written again, whatever was put in its place', async () => {
  const { registration } = register({ timing: QUICK });
  await isInStore(ANNOUNCED);
  // Some other hand announces under our name.
  await hub.put(KEY, ANNOUNCED.replace('"Source":"local"', '"Source":"else"'));
  await isInStore(ANNOUNCED);
  assert.equal(registration.state, 'announced');
  await hub.put(KEY, answerValue());
  await becomes(registration, 'registered');
});

test('changed labels, ranges and identity are adopted while it runs, and published', async () => {
  const { registration } = await registered();
  const labels = { ...LABELS, app: 'db' };
  await hub.put(KEY, answerValue({ labels, range4: '10.192.9.0/29', identity: 66_600 }));
  await identityIs(registration, 66_600);
  await becomes(registration, 'registered');
  assert.ok(registration.registered?.labels.some(({ text }) => text === 'k8s:app=db'));
  const published = JSON.parse((await hub.get(KEY)) ?? '') as { Labels: object; IPAddresses: object[] };
  assert.deepEqual(published.Labels, labels);
  assert.deepEqual(published.IPAddresses[1], { Type: 'CiliumInternalIP', IP: '10.192.9.1' });
  assert.equal(registration.registrations, 2);
  await hub.put(KEY, answerValue({ range4: undefined }));
  await until('the range is gone', () => registration.registered?.ranges4.length === 0);
});

test('a key that is deleted, or whose lease is revoked, is announced again, and the answer adopted', async () => {
  const { registration } = await registered();
  await hub.remove(KEY);
  await isInStore(ANNOUNCED);
  assert.equal(registration.state, 'announced');
  assert.equal(adopted(registration)?.identity, 66_544);
  await hub.put(KEY, answerValue({ identity: 66_545 }));
  await identityIs(registration, 66_545);
  await becomes(registration, 'registered');
  const [kv] = await hub.list(KEY);
  await hub.revoke(kv?.lease ?? 0n);
  await isInStore(ANNOUNCED);
  await hub.put(KEY, answerValue({ identity: 66_546 }));
  await identityIs(registration, 66_546);
  await becomes(registration, 'registered');
});

test('in a store that was emptied it registers again; what it was stays in force meanwhile', async () => {
  for (const sameClusterId of [false, true]) {
    const { registration } = await registered();
    await etcd.reset({ sameClusterId });
    await isInStore(ANNOUNCED);
    assert.equal(adopted(registration)?.identity, 66_544);
    await hub.put(KEY, answerValue({ identity: 66_545 }));
    await identityIs(registration, 66_545);
    await becomes(registration, 'registered');
    await opened.close();
    await hub.removePrefix('cilium/');
    opened = new Opened();
  }
});

test('a store that is away changes nothing', async () => {
  const proxy = opened.add(await TcpProxy.start(etcd.endpoints[0] ?? ''));
  const { registration, store, states } = await registered({ timing: QUICK }, { endpoints: [proxy.endpoint] });
  const before = [...states];
  proxy.refuse();
  await until('it is away', () => store.status.state !== 'connected');
  proxy.heal();
  await until('it is back', () => store.status.state === 'connected');
  await isInStore(REGISTERED);
  assert.deepEqual(states, before);
  assert.equal(registration.registrations, 1);
});

test('changed addresses are published, nothing else of the registration changes', async () => {
  const { registration, own } = await registered();
  own.text = '192.168.56.99';
  registration.addressesChanged();
  await isInStore(REGISTERED.replace('192.168.56.1', '192.168.56.99'));
  assert.equal(registration.state, 'registered');
  assert.equal(registration.registrations, 1);
  // Back again: an own value of before is no answer.
  own.text = '192.168.56.1';
  registration.addressesChanged();
  await isInStore(REGISTERED);
  assert.equal(registration.registrations, 1);
});

test('announcing again from time to time disturbs nothing: facts stay, each answer is published', async () => {
  const { registration } = await registered({ timing: { answerMs: 60_000, refreshMs: 150 } });
  const first = registration.registered;
  for (let round = 2; round <= 4; round++) {
    await isInStore(ANNOUNCED);
    assert.deepEqual(registration.registered, first);
    await hub.put(KEY, answerValue());
    await until(`registered ${round} times`, () => registration.registrations === round);
  }
  assert.deepEqual(registration.registered, first);
});

test('a refresh that is not answered is tried again soon, and told as unanswered, while the registration stays', async () => {
  const { registration } = await registered({ timing: { answerMs: 100, refreshMs: 150 } });
  await until('it is unanswered', () => registration.unansweredSince !== undefined);
  assert.equal(registration.state, 'registered');
  const { modRevision } = (await hub.list(KEY))[0] ?? { modRevision: 0 };
  await until('it is written again', async () => ((await hub.list(KEY))[0]?.modRevision ?? 0) > modRevision);
  assert.equal(registration.state, 'registered');
  await hub.put(KEY, answerValue());
  await until('it is answered', () => registration.unansweredSince === undefined);
});

test('another machine of the same name is named, and does not make both write for ever', async () => {
  const { registration } = await registered();
  const other = REGISTERED.replace('192.168.56.1', '192.168.56.77').replace('boot-1', 'boot-2');
  await hub.put(KEY, other);
  await becomes(registration, 'refused');
  assert.match(registration.refusal?.message ?? '', /another machine registers under the name vm: 192\.168\.56\.77/);
  assert.equal(adopted(registration)?.identity, 66_544);
  assert.equal(await hub.get(KEY), other);
  await hub.put(KEY, answerValue());
  await becomes(registration, 'registered');
});

test('leaving takes the key away; stopping leaves it to its lease; neither writes afterwards', async () => {
  const first = await registered();
  await first.registration.close({ leave: false });
  first.registration.addressesChanged();
  first.registration.dataLost();
  assert.equal(await hub.get(KEY), REGISTERED);
  const second = register();
  await isInStore(ANNOUNCED);
  await second.registration.close({ leave: true });
  await isInStore(undefined);
});

test('the router address is the first one of a range behind its network address', () => {
  const cases = {
    '10.0.0.0/24': '10.0.0.1',
    '10.0.0.4/31': '10.0.0.5',
    '10.0.0.9/32': '10.0.0.9',
    'fd00::/64': 'fd00::1',
  };
  for (const [range, router] of Object.entries(cases)) {
    const prefix = parsePrefix(range);
    assert.deepEqual(prefix && routerAddress(prefix), parseAddress(router));
  }
});
