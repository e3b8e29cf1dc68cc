import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DesiredFromFacts } from '../../src/agent/desired-state.ts';
import type { Machine } from '../../src/agent/machine.ts';
import { ModelFeed } from '../../src/agent/model-feed.ts';
import type { Config } from '../../src/config/config.ts';
import { identity } from '../../src/core/identity.ts';
import { formatIpv4, formatPrefix } from '../../src/core/ip.ts';
import type { DesiredChanges } from '../../src/datapath/desired.ts';
import type { Tables } from '../../src/mesh/tables.ts';
import { PolicyModel } from '../../src/policy/model.ts';
import { PolicyRepository } from '../../src/policy/repository.ts';
import type { DirectionPolicy } from '../../src/policy/result.ts';
import { SETTINGS } from '../policy/build.ts';
import {
  address,
  claim,
  emptyTables,
  nodeFact,
  prefix,
  putIdentity,
  putNode,
  registeredAs,
  removeIdentity,
  removeNode,
} from './facts.ts';

/** A machine of fixed addresses, in the place of one that watches a network. */
export function machineAt(fields: Partial<Record<keyof Machine, unknown>> = {}): Machine {
  return {
    ipv4: address('192.0.2.10'),
    ipv6: undefined,
    families: [4],
    dualStack: false,
    external: ['eth0'],
    addresses: [address('192.0.2.10')],
    gateways: [address('192.0.2.1')],
    underlayMtu: 1500,
    ...fields,
  } as unknown as Machine;
}

const CONFIG = {
  name: 'my-vm',
  routing: 'tunnel',
  datapath: 'nftables',
  tunnel: { protocol: 'vxlan', port: 8472 },
  failsafe: { ingress: [{ protocol: 6, port: 22 }], egress: [] },
  audit: false,
  monitor: { buffer: 4095, rate: 500 },
} as unknown as Config;

interface World {
  readonly tables: Tables;
  readonly model: PolicyModel;
  readonly repository: PolicyRepository;
  readonly desired: DesiredFromFacts;
  readonly feed: ModelFeed;
  wakes: number;
  machine: Machine;
  registered: ReturnType<typeof registeredAs> | undefined;
}

function worldOf(tables: Tables = emptyTables()): World {
  const model = new PolicyModel({ ...SETTINGS, clusterName: 'a' });
  model.setSubject(registeredAs().labels);
  const world: { -readonly [K in keyof World]: World[K] } = {
    tables,
    model,
    repository: new PolicyRepository({ model, now: () => 0 }),
    machine: machineAt(),
    registered: registeredAs(),
    wakes: 0,
  } as World;
  world.desired = new DesiredFromFacts({
    config: () => CONFIG,
    tables,
    machine: new Proxy(world.machine, { get: (_, name) => world.machine[name as keyof Machine] }),
    resolved: () => model.resolved,
    registered: () => world.registered,
    stores: () => [{ address: address('198.51.100.5'), port: 2379 }],
    watchNames: () => false,
    watchAllowed: () => false,
    services: () => undefined,
  } as ConstructorParameters<typeof DesiredFromFacts>[0]);
  world.feed = new ModelFeed({ tables, model, desired: world.desired, wake: () => world.wakes++ });
  return world;
}

const policyOf = (name: string, spec: object): string =>
  JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'production' },
    spec: { endpointSelector: { matchLabels: { app: 'backend' } }, ...spec },
  });

const FRONTEND = [
  'k8s:app=frontend',
  'k8s:io.cilium.k8s.policy.cluster=a',
  'k8s:io.kubernetes.pod.namespace=production',
];
const FROM_FRONTEND = policyOf('p', { ingress: [{ fromEndpoints: [{ matchLabels: { app: 'frontend' } }] }] });
const TO_NET = policyOf('net', { egress: [{ toCIDR: ['203.0.113.0/24'] }] });

function nothing(changes: DesiredChanges): boolean {
  const { ingress, egress, hosts4, hosts6, prefixes, border, overlay } = changes;
  const sets = [ingress?.identities, ingress?.classes, egress?.identities, egress?.classes, hosts4, hosts6];
  return sets.every((set) => [...(set ?? [])].length === 0) && !prefixes && !border && !overlay;
}

test('an identity reaches the model, once, and leaves it', () => {
  const world = worldOf();
  world.repository.put('directory', 'p.yaml', FROM_FRONTEND);
  world.feed.collect();
  putIdentity(world.tables, 66_000, FRONTEND);
  assert.deepEqual([...(world.feed.collect().ingress?.identities ?? [])], [66_000]);
  assert.ok(nothing(world.feed.collect()), 'it is not told twice');
  putIdentity(world.tables, 66_000, FRONTEND);
  assert.ok(nothing(world.feed.collect()), 'the same again is no change');
  removeIdentity(world.tables, 66_000);
  assert.deepEqual([...(world.feed.collect().ingress?.identities ?? [])], [66_000]);
  assert.equal(world.model.resolved.ingress.classOf(identity(66_000)), world.model.resolved.ingress.unknownClass);
});

test('prefixes that policies name appear in the ipcache with the policy, and vanish with it', () => {
  const world = worldOf();
  world.feed.collect();
  world.repository.put('directory', 'net.yaml', TO_NET);
  assert.equal(world.feed.collect().prefixes, true);
  const entry = world.tables.ipcache.lookup(address('203.0.113.9'));
  assert.equal(entry?.origin.source, 'policy');
  assert.equal(formatPrefix(entry?.prefix ?? prefix('::/0')), '203.0.113.0/24');
  assert.ok(nothing(world.feed.collect()));
  world.repository.remove('directory', 'net.yaml');
  assert.equal(world.feed.collect().prefixes, true);
  assert.equal(world.tables.ipcache.lookup(address('203.0.113.9')), undefined);
  assert.equal(world.tables.ipcache.size, 0);
});

test('an address of a cluster wins over the prefix of a policy that holds it, also the address of this machine', () => {
  const world = worldOf();
  world.repository.put('directory', 'net.yaml', policyOf('net', { egress: [{ toCIDR: ['192.0.2.0/24'] }] }));
  claim(world.tables, '192.0.2.10', { id: 66_537, source: 'local' });
  claim(world.tables, '192.0.2.77', { id: 66_001 });
  world.feed.collect();
  assert.equal(world.tables.ipcache.lookup(address('192.0.2.10'))?.identity, 66_537);
  assert.equal(world.tables.ipcache.lookup(address('192.0.2.77'))?.identity, 66_001);
  assert.equal(world.tables.ipcache.lookup(address('192.0.2.78'))?.origin.source, 'policy');
});

test('single addresses are told one by one only from when they are followed', () => {
  const world = worldOf();
  claim(world.tables, '10.1.0.1', { id: 66_000 });
  assert.equal(world.feed.collect().hosts4, undefined);
  world.feed.followAddresses();
  claim(world.tables, '10.1.0.2', { id: 66_000 });
  claim(world.tables, '2001:db8::2', { id: 66_000 });
  const { hosts4, hosts6 } = world.feed.collect();
  assert.deepEqual([...(hosts4 ?? [])].map(formatIpv4), ['10.1.0.2']);
  assert.deepEqual([...(hosts6 ?? [])], ['2001:db8::2']);
  assert.ok(nothing(world.feed.collect()));
});

test('names of ports that endpoints publish reach the policy that uses them', () => {
  const world = worldOf();
  const spec = {
    egress: [
      {
        toEndpoints: [{ matchLabels: { app: 'frontend' } }],
        toPorts: [{ ports: [{ port: 'web', protocol: 'TCP' }] }],
      },
    ],
  };
  world.repository.put('directory', 'p.yaml', policyOf('p', spec));
  putIdentity(world.tables, 66_000, FRONTEND);
  world.feed.collect();
  const rows = () => world.model.resolved.egress.classOf(identity(66_000)).rows.map(({ first }) => first);
  assert.ok(!rows().includes(8080));
  const origin = world.tables.origins.of('a', 'kvstore');
  const offer = { identity: identity(66_000), ports: [{ name: 'web', protocol: 6 as const, port: 8080 }] };
  world.tables.portNames.put(origin, 1, '10.1.0.1', offer as never);
  assert.ok(!nothing(world.feed.collect()));
  assert.ok(rows().includes(8080));
  world.tables.portNames.remove(origin, '10.1.0.1');
  world.feed.collect();
  assert.ok(!rows().includes(8080));
});

test('every change wakes the loop, and many changes wake it once for each reader', () => {
  const world = worldOf();
  world.feed.collect();
  world.wakes = 0;
  for (let i = 0; i < 1000; i++) putIdentity(world.tables, 66_000 + i, FRONTEND);
  assert.equal(world.wakes, 1);
  world.feed.collect();
  putNode(world.tables, nodeFact('a/one', ['203.0.113.7']));
  assert.equal(world.wakes, 2);
});

test('border and overlay are told when what they consist of changed, and only then', () => {
  const world = worldOf();
  world.feed.collect();
  const told = (change: () => void): string => {
    change();
    world.feed.touch();
    const { border, overlay } = world.feed.collect();
    return [border ? 'border' : '', overlay ? 'overlay' : ''].join(' ').trim();
  };
  assert.equal(
    told(() => {}),
    '',
  );
  assert.equal(
    told(() => putNode(world.tables, nodeFact('a/one', ['203.0.113.7'], ['10.1.0.0/24']))),
    'border overlay',
  );
  assert.equal(
    told(() => putNode(world.tables, nodeFact('a/my-vm', ['192.0.2.10'], ['10.9.0.0/24']))),
    '',
    'itself',
  );
  assert.equal(
    told(() => putNode(world.tables, nodeFact('b/my-vm', ['203.0.113.9']))),
    'border overlay',
    'a namesake',
  );
  const at = (fields: Parameters<typeof machineAt>[0]) => () => {
    world.machine = machineAt(fields);
  };
  assert.equal(told(at({ external: ['eth0', 'eth1'] })), 'border');
  assert.equal(told(at({ external: ['eth0', 'eth1'], underlayMtu: 9000 })), 'overlay');
  assert.equal(told(at({ external: ['eth0', 'eth1'], underlayMtu: 9000, dualStack: true })), 'border');
  told(() => removeNode(world.tables, 'a/my-vm'));
  assert.equal(
    told(() => {
      world.registered = undefined;
    }),
    'overlay',
  );
  assert.equal(world.desired.overlay, undefined, 'no overlay before the machine is registered');
});

interface Step {
  readonly kind: 'identity' | 'address' | 'policy' | 'node' | 'collect';
  readonly index: number;
  readonly to: number;
}

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    kind: fc.constantFrom(
      'identity' as const,
      'address' as const,
      'policy' as const,
      'node' as const,
      'collect' as const,
    ),
    index: fc.integer({ min: 0, max: 3 }),
    to: fc.integer({ min: 0, max: 3 }),
  }),
  { maxLength: 40 },
);

const POLICIES = [
  FROM_FRONTEND,
  TO_NET,
  policyOf('mixed', {
    egress: [{ toCIDR: ['203.0.113.0/24', '10.1.0.0/16'] }],
    ingress: [{ fromEntities: ['world'] }],
  }),
  policyOf('denies', { ingressDeny: [{ fromCIDR: ['10.1.0.0/16'] }] }),
];

function act(world: World, { kind, index, to }: Step): void {
  const { tables, repository, feed } = world;
  if (kind === 'collect') feed.collect();
  else if (kind === 'identity') {
    if (to === 0) removeIdentity(tables, 66_000 + index);
    else putIdentity(tables, 66_000 + index, to === 1 ? FRONTEND : [`k8s:app=other-${to}`]);
  } else if (kind === 'address') {
    const text = ['10.1.0.1', '10.1.0.2', '10.1.0.0/24', '2001:db8::1'][index] ?? '';
    const { bits, ...where } = prefix(text);
    const origin = tables.origins.of('a', 'kvstore');
    if (to === 0) tables.ipcache.withdraw(origin, where, text.includes('/') ? bits : undefined);
    else claim(tables, text, { id: 66_000 + to, host: `203.0.113.${to}` });
  } else if (kind === 'policy') {
    if (to === 0) repository.remove('directory', `${index}.yaml`);
    else repository.put('directory', `${index}.yaml`, POLICIES[index] ?? '');
  } else if (to === 0) removeNode(tables, `a/n${index}`);
  else putNode(tables, nodeFact(`a/n${index}`, [`203.0.113.${to}`], [`10.${index}.0.0/16`]));
}

/** Everything that a data path would read; numbers of the model's own prefixes depend on history and are told by name. */
function stateOf({ tables, model, desired }: World): object {
  const own = new Map([...model.resolved.prefixes].map(([text, { identity: id }]) => [id, `prefix ${text}`]));
  const who = (id: number): string => own.get(identity(id)) ?? String(id);
  const direction = (policy: DirectionPolicy): object => ({
    enforcing: policy.enforcing,
    unknown: policy.unknownClass.rows,
    classes: [...policy.identities()].map(([id, { rows }]) => [who(id), rows] as const).sort(byName),
  });
  const addresses = [...tables.ipcache.entries()]
    .map((entry) => [formatPrefix(entry.prefix), who(entry.identity), entry.origin.source].join(' '))
    .sort();
  const routes = [...(desired.overlay?.prefixRoutes() ?? [])].map(({ prefix: range }) => formatPrefix(range)).sort();
  const { ingress, egress } = model.resolved;
  return { ingress: direction(ingress), egress: direction(egress), addresses, routes, border: desired.border };
}

const byName = (a: readonly [string, unknown], b: readonly [string, unknown]): number => (a[0] < b[0] ? -1 : 1);

test('whatever happened before, the outcome is that of an agent that finds the same facts at its start', () => {
  fc.assert(
    fc.property(steps, (all) => {
      const world = worldOf();
      for (const step of all) act(world, step);
      world.feed.collect();
      const anew = worldOf();
      const last = new Map(all.map((step) => [`${step.kind} ${step.index}`, step]));
      for (const step of last.values()) if (step.kind !== 'collect') act(anew, step);
      anew.feed.collect();
      assert.deepEqual(stateOf(world), stateOf(anew));
      // The model's prefixes are claimed in the collect that finds them: the next one has nothing to do.
      assert.ok(nothing(world.feed.collect()));
    }),
    { numRuns: 300 },
  );
});

test('a data path that follows the told changes alone holds what one holds that compares everything', () => {
  fc.assert(
    fc.property(steps, (all) => {
      const world = worldOf();
      world.feed.collect();
      world.feed.followAddresses();
      const held = new Map<string, string>();
      const follow = (): void => {
        const { ingress } = world.feed.collect();
        for (const id of ingress?.identities ?? []) {
          const found = world.model.resolved.ingress.classOf(id);
          if (found === world.model.resolved.ingress.unknownClass) held.delete(String(id));
          else held.set(String(id), JSON.stringify(found.rows));
        }
        for (const [id, found] of world.model.resolved.ingress.identities())
          if (ingress?.classes.has(found.id)) held.set(String(id), JSON.stringify(found.rows));
      };
      for (const step of all) {
        if (step.kind === 'collect') follow();
        else act(world, step);
      }
      follow();
      const wanted = [...world.model.resolved.ingress.identities()].map(
        ([id, { rows }]) => [String(id), JSON.stringify(rows)] as const,
      );
      assert.deepEqual([...held].sort(byName), wanted.sort(byName));
    }),
    { numRuns: 300 },
  );
});
