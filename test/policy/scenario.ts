import fc from 'fast-check';
import type { Loose, ReferenceFlow, ReferenceObject } from './reference.ts';

/** Random policies, peers and flows from small alphabets, so that they meet often. */
const CLUSTERS = ['alpha', 'bravo'];
const NAMESPACES = ['shop', 'billing'];
const NS = 'io.kubernetes.pod.namespace';
const CL = 'io.cilium.k8s.policy.cluster';
const NSL = 'io.cilium.k8s.namespace.labels.team';

export const SUBJECT = ['k8s:app=db', 'k8s:env=prod', `k8s:${CL}=alpha`, `k8s:${NS}=shop`];
export const SUBJECT_PORTS = [
  { name: 'sql', protocol: 'TCP', port: 5432 },
  { name: 'dns', protocol: 'UDP', port: 53 },
];
export const PREFIXES = ['10.0.0.0/8', '10.1.0.0/16', '10.1.2.0/24', '10.1.2.3/32', '192.0.2.0/24', '0.0.0.0/0'];
export const ADDRESSES = ['10.0.0.9', '10.1.9.9', '10.1.2.9', '10.1.2.3', '192.0.2.7', '203.0.113.5'];
export const DNS: Readonly<Record<string, readonly string[]>> = {
  'a.x.io': ['203.0.113.5', '10.1.2.3'],
  'b.a.x.io': ['192.0.2.7'],
  'x.io': ['10.0.0.9'],
};

const some = <T>(...values: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(value, { nil: undefined, freq: 3 });

/** Drops what is undefined, as a document would not have it. */
export function clean(value: Loose): Loose {
  return JSON.parse(JSON.stringify(value));
}

export const identityLabels: fc.Arbitrary<readonly string[]> = fc
  .record({
    app: some('cart', 'web', 'db'),
    env: maybe(some('prod', 'test')),
    namespace: maybe(some(...NAMESPACES)),
    cluster: some(...CLUSTERS),
    team: maybe(some('red', 'blue')),
    source: some('k8s', 'k8s', 'k8s', 'container'),
  })
  .map(({ app, env, namespace, cluster, team, source }) => [
    `${source}:app=${app}`,
    ...(env === undefined ? [] : [`k8s:env=${env}`]),
    ...(namespace === undefined ? [] : [`k8s:${NS}=${namespace}`]),
    ...(team === undefined ? [] : [`k8s:${NSL}=${team}`]),
    `k8s:${CL}=${cluster}`,
  ]);

const matchLabels = fc.dictionary(
  some('app', 'k8s:app', 'env', `k8s:${NS}`, CL),
  some('cart', 'web', 'prod', 'shop', 'bravo'),
  {
    maxKeys: 2,
  },
);
const expression = fc.oneof(
  fc.record({
    key: some('app', 'k8s:env', NS, `k8s:${NSL}`, CL),
    operator: some('In', 'NotIn'),
    values: fc.subarray(['cart', 'web', 'prod', 'shop', 'billing', 'red', 'alpha'], { minLength: 1, maxLength: 3 }),
  }),
  fc.record({
    key: some('env', 'k8s:app', NS, `k8s:${NSL}`, 'reserved:host'),
    operator: some('Exists', 'DoesNotExist'),
  }),
);

const labelsOnly = fc.record({ matchLabels }).map(clean);
const selector = fc.oneof(
  { weight: 2, arbitrary: labelsOnly },
  {
    weight: 2,
    arbitrary: fc.record({ matchLabels: maybe(matchLabels), matchExpressions: fc.array(expression, { maxLength: 2 }) }),
  },
  { weight: 1, arbitrary: fc.constant({}) },
  { weight: 1, arbitrary: some({ matchLabels: { 'reserved:host': '' } }, { matchLabels: { 'reserved:world': '' } }) },
);

const port = fc.record({
  port: some('80', '81', '443', '0', '1000', '5432', '53', 'sql', 'dns', 'web'),
  endPort: maybe(some(80, 90, 443, 1100, 65535)),
  protocol: maybe(some('TCP', 'UDP', 'SCTP', 'ANY')),
});
const namedWithoutEnd = port.map((each) => (/[a-z]/.test(each.port) ? { ...each, endPort: undefined } : each));
const toPorts = fc.array(fc.record({ ports: maybe(fc.array(namedWithoutEnd, { maxLength: 3 })) }), { maxLength: 2 });
const icmps = fc.array(
  fc.record({
    fields: fc.array(fc.record({ family: maybe(some('IPv4', 'IPv6')), type: some(0, 8, 3, 128) }), { maxLength: 2 }),
  }),
  { minLength: 1, maxLength: 2 },
);

function cidrSetItem(): fc.Arbitrary<Loose> {
  return fc.oneof(
    fc.record({
      cidr: some('10.0.0.0/8', '0.0.0.0/0'),
      except: fc.subarray(['10.1.0.0/16', '10.1.2.0/24', '10.1.2.3/32']),
    }),
    fc.record({ cidr: some(...PREFIXES) }),
    fc.record({ cidrGroupRef: some('partners', 'nowhere'), except: maybe(fc.constant(['10.1.2.0/24'])) }),
  );
}

const entities = some('all', 'world', 'cluster', 'host', 'remote-node', 'kube-apiserver', 'health', 'none');

function peers(way: 'from' | 'to', deny: boolean): fc.Arbitrary<Loose> {
  const list = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(of, { maxLength: 2 });
  const fqdn = some({ matchName: 'a.x.io' }, { matchName: 'X.io' }, { matchPattern: '*.x.io' }, { matchPattern: '*' });
  return fc.oneof(
    { weight: 4, arbitrary: list(selector).map((items) => ({ [`${way}Endpoints`]: items })) },
    { weight: 2, arbitrary: list(entities).map((items) => ({ [`${way}Entities`]: items })) },
    { weight: 2, arbitrary: list(some(...PREFIXES, '10.1.2.3')).map((items) => ({ [`${way}CIDR`]: items })) },
    { weight: 2, arbitrary: list(cidrSetItem()).map((items) => ({ [`${way}CIDRSet`]: items })) },
    { weight: 2, arbitrary: fc.constant({}) },
    ...(way === 'to' && !deny ? [{ weight: 2, arbitrary: list(fqdn).map((items) => ({ toFQDNs: items })) }] : []),
  );
}

const l7Ports = fc.constant([{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ method: 'GET' }] } }]);

function entry(way: 'from' | 'to', deny: boolean): fc.Arbitrary<Loose> {
  const ports = fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    { weight: 4, arbitrary: toPorts.map((items) => ({ toPorts: items })) },
    { weight: 1, arbitrary: icmps.map((items) => ({ icmps: items })) },
    ...(deny ? [] : [{ weight: 1, arbitrary: l7Ports.map((items) => ({ toPorts: items })) }]),
  );
  const requires = maybe(fc.array(labelsOnly, { minLength: 1, maxLength: 1 }));
  return fc
    .tuple(peers(way, deny), ports, fc.boolean(), requires, fc.nat(15))
    .map(([a, b, , legacy, chance]) => ({ ...a, ...b, ...(chance === 0 ? { [`${way}Requires`]: legacy } : {}) }));
}

const subjectSelector = some<Loose>(
  {},
  { matchLabels: { app: 'db' } },
  { matchLabels: { 'k8s:env': 'prod' } },
  { matchLabels: { app: 'web' } },
);
const toggle = maybe(fc.record({ ingress: maybe(fc.boolean()), egress: maybe(fc.boolean()) }));

const ciliumRule = fc
  .record({
    endpointSelector: subjectSelector,
    ingress: maybe(fc.array(entry('from', false), { maxLength: 3 })),
    ingressDeny: maybe(fc.array(entry('from', true), { maxLength: 2 })),
    egress: maybe(fc.array(entry('to', false), { maxLength: 3 })),
    egressDeny: maybe(fc.array(entry('to', true), { maxLength: 2 })),
    enableDefaultDeny: toggle,
  })
  .map(clean);

const kubernetesPort = fc.record({
  port: maybe(some<Loose>(80, 443, 'sql', 'web')),
  protocol: maybe(some('TCP', 'UDP')),
});
const kubernetesPeer = fc.oneof(
  fc.record({ podSelector: labelsOnly }),
  fc.record({ namespaceSelector: some({}, { matchLabels: { team: 'red' } }), podSelector: maybe(labelsOnly) }),
  fc.record({ ipBlock: fc.record({ cidr: fc.constant('10.0.0.0/8'), except: maybe(fc.constant(['10.1.0.0/16'])) }) }),
);

function kubernetesEntry(way: 'from' | 'to'): fc.Arbitrary<Loose> {
  return fc
    .tuple(maybe(fc.array(kubernetesPeer, { maxLength: 2 })), maybe(fc.array(kubernetesPort, { maxLength: 2 })))
    .map(([items, ports]) => ({ [way]: items, ports }));
}

/** Keys of a pod selector are verbatim: one with a source would be an invalid key. */
const podLabels = fc.dictionary(some('app', 'env'), some('cart', 'web', 'prod', 'db'), { maxKeys: 2 });

const kubernetesRule = fc
  .record({
    podSelector: podLabels.map((labels) => ({ matchLabels: labels })),
    ingress: maybe(fc.array(kubernetesEntry('from'), { maxLength: 2 })),
    egress: maybe(fc.array(kubernetesEntry('to'), { maxLength: 2 })),
    policyTypes: maybe(fc.subarray(['Ingress', 'Egress'])),
  })
  .map((rule) => JSON.parse(JSON.stringify(rule).replaceAll('k8s:', '')));

export const policyObject: fc.Arbitrary<ReferenceObject> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: some('CiliumNetworkPolicy' as const),
      namespace: some('shop', 'shop', 'billing'),
      rules: fc.array(ciliumRule, { minLength: 1, maxLength: 2 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: some('CiliumClusterwideNetworkPolicy' as const, 'raw' as const),
      namespace: fc.constant(''),
      rules: fc.array(ciliumRule, { minLength: 1, maxLength: 2 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('NetworkPolicy' as const),
      namespace: some('shop', 'shop', 'billing'),
      rules: fc.array(kubernetesRule, { minLength: 1, maxLength: 1 }),
    }),
  },
);

/** The text of a document, as JSON. */
export function textOf(object: ReferenceObject, name: string): string {
  if (object.kind === 'raw') return JSON.stringify(object.rules);
  const metadata = { name, ...(object.namespace === '' ? {} : { namespace: object.namespace }) };
  if (object.kind === 'NetworkPolicy') {
    return JSON.stringify({ apiVersion: 'networking.k8s.io/v1', kind: object.kind, metadata, spec: object.rules[0] });
  }
  return JSON.stringify({ apiVersion: 'cilium.io/v2', kind: object.kind, metadata, specs: object.rules });
}

export const flow: fc.Arbitrary<ReferenceFlow> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      direction: some('ingress' as const, 'egress' as const),
      protocol: some('TCP' as const, 'UDP' as const, 'SCTP' as const),
      port: some(80, 81, 85, 90, 91, 443, 5432, 53, 1000, 1050, 65535, 8080),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      direction: some('ingress' as const, 'egress' as const),
      protocol: some('ICMP' as const, 'ICMPv6' as const),
      port: some(0, 3, 8, 128),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      direction: some('ingress' as const, 'egress' as const),
      protocol: some('GRE' as const),
      port: fc.constant(0),
    }),
  },
);

export const settings = fc.record({
  clusterName: fc.constant('alpha'),
  dualStack: fc.boolean(),
  enforcement: fc.constantFrom(
    'default' as const,
    'default' as const,
    'default' as const,
    'always' as const,
    'never' as const,
  ),
  allowLocalhost: fc.constantFrom('policy' as const, 'policy' as const, 'always' as const),
  defaultLocalCluster: fc.boolean(),
});
