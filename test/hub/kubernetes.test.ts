import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { kubernetesPart } from '../../src/hub/kubernetes/part.ts';
import type { KubernetesFacts } from '../../src/hub/kubernetes/records.ts';
import { PolicyBook } from '../../src/hub/policies/policy-book.ts';
import { registrationPartWith } from '../../src/hub/registration/part.ts';
import { openWriterStore } from '../../src/kvstore/writer-store.ts';
import { parsePolicies } from '../../src/policy/language/parse.ts';
import { PolicyRepository } from '../../src/policy/repository.ts';
import { contentOf } from '../kvstore/mirror.ts';
import { Etcd } from '../lab/etcd.ts';
import { KubeApi, type KubeObject } from '../lab/kube-api.ts';
import { until } from '../lab/namespace.ts';
import { modelWith } from '../policy/build.ts';
import { HubLab } from './hub-lab.ts';
import { Machine } from './machine.ts';

const PREFIX = 'mesh-agent/v1/policies/';
const PART = kubernetesPart({ retry: { minMs: 20, maxMs: 200 }, everyMs: 2000 });
const OURS = 'of-kubernetes.';

let etcd: Etcd;
let api: KubeApi;
let hub: HubLab;

before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(async () => {
  api = await KubeApi.start();
  await startHub();
});
afterEach(async () => {
  await hub.stop();
  await api.close();
  await etcd.ctl('del', '--prefix', '');
});

async function startHub(kubeconfig = api.kubeconfig(), part = PART): Promise<void> {
  const config = `
cluster: {name: vms, id: 100}
pools: [10.192.0.0/16]
names: [hub.example.com]
kubernetes: {config: ${kubeconfig}}
`;
  hub = await HubLab.start({ etcd, config, part });
}

const status = (): KubernetesFacts => hub.led?.status() as KubernetesFacts;
const inStep = (): Promise<void> =>
  until('it is in step', () => hub.leading && status().lastSync !== null && status().connected).catch((error) => {
    throw new Error(`${String(error)} ${JSON.stringify(status())} ${JSON.stringify(hub.troubles)}`);
  });
const well = (): Promise<void> =>
  until('there is no trouble', () => hub.troubles.length === 0).catch((error) => {
    throw new Error(`${String(error)} ${JSON.stringify(hub.troubles)} ${JSON.stringify(status())}`);
  });
const documents = async (): Promise<Map<string, string>> => new Map(await contentOf(etcd, PREFIX));
const names = async (): Promise<string[]> => [...(await documents()).keys()].sort();
const shows = (...expected: string[]): Promise<void> =>
  until(`there is ${expected.join(', ')}`, async () => (await names()).join() === expected.join()).catch(
    async (error) => {
      throw new Error(`${String(error)}: ${await names()} ${JSON.stringify(status())} ${JSON.stringify(hub.troubles)}`);
    },
  );

const web = (port = '80', namespace = 'default'): KubeObject => ({
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumNetworkPolicy',
  metadata: { name: 'web', namespace, labels: { team: 'a' } },
  spec: {
    endpointSelector: { matchLabels: { app: 'web' } },
    ingress: [{ toPorts: [{ ports: [{ port, protocol: 'TCP' }] }] }],
  },
  status: { conditions: [{ type: 'Valid', lastTransitionTime: String(Math.random()) }] },
});
const deny: KubeObject = {
  kind: 'CiliumClusterwideNetworkPolicy',
  metadata: { name: 'deny.all' },
  spec: { endpointSelector: {}, ingress: [{}], egress: [] },
};
const net: KubeObject = {
  kind: 'NetworkPolicy',
  metadata: { name: 'net', namespace: 'shop' },
  spec: { podSelector: {}, policyTypes: ['Ingress'] },
};
const WEB = `${OURS}ciliumnetworkpolicy.default.web`;
const DENY = `${OURS}ciliumclusterwidenetworkpolicy..deny.all`;
const NET = `${OURS}networkpolicy.shop.net`;
const HAND = JSON.stringify(web('9999'));

test('policies of three kinds are handed out as they are, and follow every change', async () => {
  api.put(web());
  api.put(deny);
  api.put(net);
  await shows(DENY, WEB, NET);
  const text = (await documents()).get(WEB) ?? '';
  assert.doesNotMatch(text, /status|managedFields|resourceVersion|generation/);
  const [object] = parsePolicies(text).objects;
  assert.equal(object?.type, 'policy');
  assert.equal(object?.policy, 'CiliumNetworkPolicy/default/web');
  assert.match(text, /"team": "a"/);
  assert.match(text, /"uid": "uid-web"/);
  api.put(web('81'));
  await until('the change is there', async () => /"81"/.test((await documents()).get(WEB) ?? ''));
  api.delete(net);
  await shows(DENY, WEB);
  await inStep();
  await until('it is counted', () => status().policies === 2);
  assert.deepEqual(hub.troubles, []);
});

test('a change of the status alone writes nothing', async () => {
  api.put(web());
  await shows(WEB);
  const revision = async (): Promise<number> => (await hub.store.read(PREFIX + WEB))?.modRevision ?? 0;
  const before = await revision();
  for (let i = 0; i < 5; i++) api.put(web());
  api.put(deny);
  await shows(DENY, WEB);
  assert.equal(await revision(), before);
});

test('what was deleted while nobody looked goes with the next complete list, and not before', async () => {
  api.put(web());
  api.put(net);
  await shows(WEB, NET);
  await hub.stop();
  api.delete(web());
  api.compact();
  api.brokenList = (answer) => {
    answer.statusCode = 503;
    answer.end();
  };
  await startHub();
  await until('it is told', () => hub.troubles.some(({ code }) => code === 'HUB-KUBE-UNREACHABLE'));
  // One page that is followed by a failure is no list either.
  let pages = 0;
  api.brokenList = (answer) => {
    if (pages++ % 2 === 0)
      answer.end(
        '{"metadata":{"resourceVersion":"7","continue":"more"},"items":[{"metadata":{"name":"x","namespace":"y","resourceVersion":"1"}}]}',
      );
    else answer.destroy();
  };
  await until('partial lists were read', () => pages > 12);
  assert.deepEqual(await names(), [WEB, NET]);
  api.brokenList = undefined;
  await shows(NET);
  await well();
});

test('an API server that is away, or denies access, changes nothing, and is told', async () => {
  api.put(web());
  await shows(WEB);
  await api.shut();
  await until('it is told', () => hub.troubles.some(({ code }) => code === 'HUB-KUBE-UNREACHABLE'));
  assert.deepEqual(await names(), [WEB]);
  assert.equal(status().connected, false);
  api.broken = (answer) => {
    answer.statusCode = 403;
    answer.end('{"message":"not for you"}');
  };
  await api.open();
  await until('it is told', () =>
    hub.troubles.some(({ code, text }) => code === 'HUB-KUBE-DENIED' && /not for you/.test(text)),
  );
  assert.deepEqual(await names(), [WEB]);
  api.broken = undefined;
  api.delete(web());
  await shows();
  await well();
});

test('CRDs that are not installed are a note; what was there of them stays', async () => {
  api.put(web());
  api.put(net);
  await shows(WEB, NET);
  await hub.stop();
  api.missing.add('cilium.io/v2/ciliumnetworkpolicies');
  api.missing.add('cilium.io/v2/ciliumclusterwidenetworkpolicies');
  api.missing.add('cilium.io/v2/ciliumexternalworkloads');
  api.delete(net);
  await startHub();
  await shows(WEB);
  await inStep();
  assert.deepEqual(hub.troubles, []);
  assert.deepEqual(
    status().resources.map(({ state }) => state),
    ['missing', 'missing', 'following', 'missing'],
  );
});

test('an object that is refused keeps its last good version, and is named', async () => {
  api.put(web());
  await shows(WEB);
  const good = (await documents()).get(WEB);
  api.put(web('70000'));
  api.put({ ...net, spec: { podSelector: 7 } });
  await until('both are told', () => hub.leading && status().refusedCount === 2);
  assert.deepEqual(await names(), [WEB]);
  assert.equal((await documents()).get(WEB), good);
  assert.deepEqual(
    status().refused.map(({ name, kept }) => [name, kept]),
    [
      ['CiliumNetworkPolicy/default/web', true],
      ['NetworkPolicy/shop/net', false],
    ],
  );
  const [trouble] = hub.troubles;
  assert.equal(trouble?.code, 'HUB-KUBE-OBJECT');
  assert.equal(trouble?.severity, 'warning');
  assert.match(trouble?.text ?? '', /web \(last good version kept\): .*70000/);
  api.put(web('82'));
  api.delete(net);
  await well();
  assert.match((await documents()).get(WEB) ?? '', /"82"/);
});

test('hostile objects harm nobody but themselves', async () => {
  let deep: unknown = {};
  for (let i = 0; i < 1000; i++) deep = { a: deep };
  const hostile: KubeObject[] = [
    { kind: 'NetworkPolicy', metadata: { name: '../../leader', namespace: 'x' }, spec: {} },
    { kind: 'NetworkPolicy', metadata: { name: 'a', namespace: 'x/../y' }, spec: {} },
    { kind: 'NetworkPolicy', metadata: { name: 'no-namespace' }, spec: { podSelector: {} } },
    { kind: 'CiliumNetworkPolicy', metadata: { name: 'deep', namespace: 'x' }, spec: deep },
    { kind: 'CiliumClusterwideNetworkPolicy', metadata: { name: 'spaced', namespace: 'x' }, spec: {} },
    {
      kind: 'CiliumNetworkPolicy',
      metadata: { name: 'huge', namespace: 'x' },
      spec: { description: 'x'.repeat(1_600_000) },
    },
    { kind: 'CiliumNetworkPolicy', metadata: { name: 'x'.repeat(300), namespace: 'x' }, spec: {} },
    { kind: 'CiliumExternalWorkload', metadata: { name: 'BAD_NAME' } },
    { kind: 'CiliumExternalWorkload', metadata: { name: 'vm-a', labels: { a: 7 } } },
    { kind: 'CiliumExternalWorkload', metadata: { name: 'vm-b' }, spec: { 'ipv4-alloc-cidr': '0.0.0.0/0' } },
    { kind: 'CiliumExternalWorkload', metadata: { name: 'vm-c', labels: { 'io.kubernetes.pod.namespace': 'A/B' } } },
  ];
  for (const object of hostile) api.put(object);
  api.put(web());
  await shows(WEB);
  await until('all are told', () => hub.leading && status().refusedCount === hostile.length).catch((error) => {
    throw new Error(`${String(error)} ${JSON.stringify(status().refused)}`);
  });
  assert.equal(hub.facts.book.size, 0);
  assert.equal((await contentOf(etcd, 'mesh-agent/v1/workloads/')).size, 0);
});

test('the same object by hand wins, is shown, and gives way without a gap when it is deleted', async () => {
  const book = new PolicyBook(hub.store, { kubernetes: true });
  await book.apply([{ name: 'web.json', text: HAND }]);
  api.put(web());
  await shows('ciliumnetworkpolicy.default.web', WEB);
  await until('it is told', () => hub.troubles.some(({ code }) => code === 'HUB-KUBE-CONFLICT'));
  assert.deepEqual(status().conflicts, ['CiliumNetworkPolicy/default/web']);
  assert.deepEqual(
    (await book.list()).items.map(({ document, source, shadowed }) => [document, source, shadowed]),
    [
      ['ciliumnetworkpolicy.default.web', 'hand', false],
      [WEB, 'kubernetes', true],
    ],
  );
  assert.match((await book.get('web')).text, /9999/);
  assert.match((await book.get(WEB)).text, /"80"/);
  await book.delete('web');
  await well();
  assert.deepEqual(await names(), [WEB]);
  await assert.rejects(book.delete('web'), { code: 'HUB-POLICY-KUBERNETES' });
  await new PolicyBook(hub.store).delete('web');
  // Not from here: the hub puts back what Kubernetes has.
  await shows(WEB);
});

test('of two documents with one object a machine takes the one by hand, whatever the kind', () => {
  for (const [object, name] of [
    [web(), 'ciliumnetworkpolicy.default.web'],
    [{ ...deny, apiVersion: 'cilium.io/v2' }, 'ciliumclusterwidenetworkpolicy..deny.all'],
    [{ ...net, apiVersion: 'networking.k8s.io/v1' }, 'networkpolicy.shop.net'],
  ] as const) {
    const repository = new PolicyRepository({ model: modelWith(''), now: () => 0 });
    repository.put('kvstore', OURS + name, JSON.stringify(object));
    repository.put('kvstore', name, JSON.stringify(object));
    const [first, second] = repository.list();
    assert.equal(first?.source, `kvstore:${name}`);
    assert.deepEqual([second?.source, second?.state], [`kvstore:${OURS}${name}`, 'shadowed']);
  }
});

test('documents by hand are never touched', async () => {
  const book = new PolicyBook(hub.store);
  await book.apply([{ name: 'web.json', text: HAND }]);
  const before = await documents();
  api.put(web());
  await shows('ciliumnetworkpolicy.default.web', WEB);
  api.delete(web());
  await shows('ciliumnetworkpolicy.default.web');
  assert.deepEqual(await documents(), before);
});

const vm = (more: object = {}, labels: object = {}): KubeObject => ({
  kind: 'CiliumExternalWorkload',
  metadata: { name: 'vm-1', labels: { app: 'db', 'io.kubernetes.pod.namespace': 'shop', ...labels } },
  spec: { 'ipv4-alloc-cidr': '10.9.1.0/30', ...more },
});
const known = (text: string): Promise<void> =>
  until(`the workload is ${text}`, () => shownWorkload() === text).catch((error) => {
    throw new Error(`${String(error)}: ${shownWorkload()} ${JSON.stringify(status())} ${JSON.stringify(hub.troubles)}`);
  });
function shownWorkload(): string {
  const found = hub.facts.book.get('vm-1');
  if (found === undefined) return 'none';
  const { namespace, labels, range4, source, serviceAccount } = found;
  const range = range4 === undefined ? '' : `${range4.words[0]}/${range4.bits}`;
  return `${namespace} ${JSON.stringify(labels)} ${range} ${serviceAccount ?? ''} ${source}`;
}
const range = (...bytes: number[]): number => bytes.reduce((sum, byte) => sum * 256 + byte, 0);

test('an external workload becomes a workload, and follows labels, range and namespace as the same one', async () => {
  api.put(vm());
  await known(`shop {"app":"db"} ${range(10, 9, 1, 0)}/30  kubernetes`);
  const { uid } = await hub.get('vm-1');
  api.put(
    vm(
      {},
      { app: 'web', tier: '1', 'io.cilium.k8s.policy.serviceaccount': 'robot', 'io.cilium.k8s.policy.cluster': 'evil' },
    ),
  );
  await known(`shop {"app":"web","tier":"1"} ${range(10, 9, 1, 0)}/30 robot kubernetes`);
  api.put(vm({ 'ipv4-alloc-cidr': '10.9.1.0/28' }, { 'io.kubernetes.pod.namespace': 'bar' }));
  await known(`bar {"app":"db"} ${range(10, 9, 1, 0)}/28  kubernetes`);
  assert.equal((await hub.get('vm-1')).uid, uid);
  assert.deepEqual([...(await contentOf(etcd, 'mesh-agent/v1/workloads/')).keys()], ['bar/vm-1']);
  assert.deepEqual([...(await contentOf(etcd, 'mesh-agent/v1/names/'))], [['vm-1', 'bar']]);
  assert.deepEqual([...(await contentOf(etcd, 'mesh-agent/v1/ranges/')).keys()].sort(), ['10.9.1.0/28', 'guard']);
  assert.deepEqual(hub.revoked, []);
  await assert.rejects(hub.ask('PUT', 'workloads/vm-1', { labels: { a: 'b' } }), { code: 'HUB-WORKLOAD-KUBERNETES' });
  await assert.rejects(hub.ask('DELETE', 'workloads/vm-1'), { code: 'HUB-WORKLOAD-KUBERNETES' });
  assert.equal((await hub.get('vm-1')).source, 'kubernetes');
});

test('a workload by hand is never taken over, changed or deleted', async () => {
  await hub.create('vm-1', { labels: { mine: 'yes' } });
  const before = [...(await contentOf(etcd, 'mesh-agent/v1/workloads/'))];
  api.put(vm());
  await until('it is told', () => hub.troubles.some(({ code }) => code === 'HUB-KUBE-CONFLICT'));
  api.put(vm({}, { x: 'y' }));
  api.delete(vm());
  await well();
  assert.deepEqual([...(await contentOf(etcd, 'mesh-agent/v1/workloads/'))], before);
  api.put(vm());
  await until('it is told', () => hub.troubles.some(({ code }) => code === 'HUB-KUBE-CONFLICT'));
  await hub.ask('DELETE', 'workloads/vm-1');
  await known(`shop {"app":"db"} ${range(10, 9, 1, 0)}/30  kubernetes`);
});

test('a range that is taken is refused, and the workload stays as it was', async () => {
  await hub.create('other', { ipv4AllocCidr: '10.9.2.0/30' });
  api.put(vm());
  await known(`shop {"app":"db"} ${range(10, 9, 1, 0)}/30  kubernetes`);
  api.put(vm({ 'ipv4-alloc-cidr': '10.9.2.0/29' }));
  await until('it is told', () => status().refused.some(({ reason, kept }) => kept && /other/.test(reason)));
  assert.match(shownWorkload(), new RegExp(`${range(10, 9, 1, 0)}/30`));
  api.put(vm({ 'ipv4-alloc-cidr': '10.9.3.0/30' }));
  await known(`shop {"app":"db"} ${range(10, 9, 3, 0)}/30  kubernetes`);
});

test('a workload that was deleted while the hub was away goes, with the rights of its machine', async () => {
  api.put(vm());
  await known(`shop {"app":"db"} ${range(10, 9, 1, 0)}/30  kubernetes`);
  await hub.create('by-hand');
  await hub.stop();
  api.delete(vm());
  api.compact();
  await startHub();
  await until('it is gone', () => hub.facts.book.get('vm-1') === undefined && hub.facts.book.size === 1);
  assert.notEqual(hub.facts.book.get('by-hand'), undefined);
  assert.deepEqual(
    [...(await contentOf(etcd, 'mesh-agent/v1/ranges/')).keys()].filter((key) => key.startsWith('10.9.')),
    [],
  );
});

test('a kubeconfig that is missing is told, and found when it is there', async () => {
  await hub.stop();
  const file = api.kubeconfig({ name: 'late' });
  const text = readFileSync(file);
  rmSync(file);
  await startHub(file);
  api.put(web());
  await until('it is told', () => hub.troubles.some(({ code, place }) => code === 'HUB-KUBE-CONFIG' && place === file));
  writeFileSync(file, text);
  await shows(WEB);
  await well();
});

test('a machine that is registered follows its external workload: labels, range and namespace, and its end', async () => {
  await hub.stop();
  const registration = registrationPartWith({});
  const both: typeof PART = {
    where: 'leader',
    create: (context, leader) => {
      const parts = [registration.create(context, leader), PART.create(context, leader)];
      return {
        name: 'both',
        start: async () => {
          for (const part of parts) await part.start();
        },
        stop: async () => {
          for (const part of parts) await part.stop();
        },
        status: () => parts[1]?.status() ?? {},
      };
    },
  };
  await startHub(api.kubeconfig(), both);
  const machines = openWriterStore({ etcd: async () => ({ endpoints: etcd.endpoints }) });
  try {
    api.put(vm());
    await known(`shop {"app":"db"} ${range(10, 9, 1, 0)}/30  kubernetes`);
    await new Machine(machines, 'vm-1').join(['InternalIP', '192.168.56.10']);
    const published = async (address: string): Promise<{ ID: number; K8sNamespace: string } | undefined> =>
      JSON.parse((await machines.get(`cilium/state/ip/v1/default/${address}`))?.value.toString() ?? 'null') ??
      undefined;
    await until('it is published', async () => (await published('10.9.1.0/30'))?.K8sNamespace === 'shop');
    const before = (await published('192.168.56.10'))?.ID;
    api.put(vm({ 'ipv4-alloc-cidr': '10.9.7.0/30' }, { 'io.kubernetes.pod.namespace': 'bar' }));
    await until('the new range is published', async () => (await published('10.9.7.0/30'))?.K8sNamespace === 'bar');
    await until('the old one is not', async () => (await published('10.9.1.0/30')) === undefined);
    await until('its identity is another', async () => {
      const now = (await published('192.168.56.10'))?.ID;
      return now !== undefined && now !== before;
    });
    assert.equal((await hub.get('vm-1')).state, 'registered');
    api.delete(vm());
    await until('it vanishes', async () => (await published('192.168.56.10')) === undefined);
    assert.deepEqual(hub.revoked, ['vm-1']);
  } finally {
    await machines.close();
  }
});
