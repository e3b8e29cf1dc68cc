import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatPrefix } from '../../src/core/ip.ts';
import { formatProblem, parsePolicies } from '../../src/policy/language/parse.ts';
import { policy, refusalOf, rulesOf } from './build.ts';

test('an error names document, line and path', () => {
  const good = policy('ingress: [{}]');
  const bad = policy(`
ingress:
- fromEndpoints: [{}]
  toPorts:
  - ports:
    - {port: "80", protocol: TCP}
    - {port: "99999"}`);
  const { objects } = parsePolicies(`${good}---\n${bad}`);
  const [first, second] = objects;
  assert.equal(first?.type, 'policy');
  assert.equal(second?.type, 'bad');
  if (second?.type !== 'bad') return;
  assert.equal(second.policy, 'CiliumNetworkPolicy/shop/p');
  assert.equal(
    formatProblem(second.error),
    'document 2, line 18, spec.ingress[0].toPorts[0].ports[1].port: ' +
      'Invalid CiliumNetworkPolicy spec: Unable to parse port: 99999 is larger than 65535',
  );
});

test('a misspelt field is refused with a hint, and ignored only when reading is lenient', () => {
  const text = policy('ingress: [{fromendpoints: [{}], toPorts: [{ports: [{port: "80"}]}]}]');
  assert.match(refusalOf(text), /line 6 spec\.ingress\[0\]\.fromendpoints: .*did you mean "fromEndpoints"/);
  assert.equal(rulesOf(text, { lenient: true })[0]?.ingress.allow[0]?.peers.kind, 'everyone');
});

test('lists of objects, several documents and raw rules are read', () => {
  const item =
    '{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: ns}, spec: {endpointSelector: {}}}';
  const policiesOf = (text: string) => parsePolicies(text, { name: 'file' }).objects.map((each) => each.policy);
  assert.deepEqual(policiesOf(`apiVersion: v1\nkind: List\nitems: [${item}, ${item}]`), [
    'CiliumNetworkPolicy/ns/a',
    'CiliumNetworkPolicy/ns/a',
  ]);
  assert.deepEqual(policiesOf(`---\n${item}\n---\n---\n${item}\n...\n`).length, 2);
  assert.deepEqual(policiesOf('- endpointSelector: {}\n  ingress: [{}]'), ['Rules/file']);
  assert.deepEqual(policiesOf('endpointSelector: {}'), ['Rules/file']);
  assert.deepEqual(policiesOf(`[${item}]`), ['CiliumNetworkPolicy/ns/a']);
  assert.deepEqual(policiesOf(''), []);
  assert.deepEqual(policiesOf('# nothing\n---\n'), []);
});

test('a namespace that YAML reads as something else is no missing namespace', () => {
  const { objects } = parsePolicies(
    '{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: n}, spec: {endpointSelector: {}}}',
  );
  assert.equal(objects[0]?.type, 'bad');
  assert.equal(objects[0]?.policy, undefined);
});

test('a Kubernetes policy without namespace is in the default one', () => {
  const { objects } = parsePolicies(
    '{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {}}}',
  );
  assert.equal(objects[0]?.policy, 'NetworkPolicy/default/a');
});

test('a namespaced policy without namespace is read as clusterwide, with a warning', () => {
  const { objects } = parsePolicies(
    '{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {endpointSelector: {}, ingress: [{}]}}',
  );
  assert.equal(objects[0]?.type, 'policy');
  assert.match(objects[0]?.warnings[0]?.message ?? '', /no namespace/);
});

const refusals: readonly (readonly [what: string, spec: string, message: RegExp])[] = [
  ['a null subject selector', 'endpointSelector:', /stands twice/],
  [
    'an unknown authentication mode',
    'ingress: [{authentication: {mode: always}}]',
    /unknown authentication mode "always"/,
  ],
  [
    'an end port out of range',
    'ingress: [{toPorts: [{ports: [{port: "80", endPort: 70000}]}]}]',
    /not between 0 and 65535/,
  ],
  ['a leading zero', 'ingress: [{toPorts: [{ports: [{port: "080"}]}]}]', /leading zero/],
  ['a name that is no service name', 'ingress: [{toPorts: [{ports: [{port: "a--b"}]}]}]', /Unable to parse port/],
  [
    'a number of an ICMP type that does not exist',
    'ingress: [{icmps: [{fields: [{type: 256}]}]}]',
    /not found in IPv4/,
  ],
  ['an ICMP name of an object', 'ingress: [{icmps: [{fields: [{type: toString}]}]}]', /not found in IPv4/],
  [
    'an except as wide as its prefix and wider',
    'egress: [{toCIDRSet: [{cidr: 10.0.0.0/16, except: [10.0.0.0/8]}]}]',
    /does not contain/,
  ],
  [
    'an item of a CIDR set with two sources',
    'egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]}]',
    /more than one of/,
  ],
  ['an item of a CIDR set without source', 'egress: [{toCIDRSet: [{except: [10.0.0.0/8]}]}]', /one of cidr/],
  ['an empty address', 'egress: [{toCIDR: [""]}]', /IP must be specified/],
  ['a name selector without name', 'egress: [{toFQDNs: [{}]}]', /one of matchName or matchPattern/],
  ['names in a denial', 'egressDeny: [{toFQDNs: [{matchName: a.b}]}]', /unknown field "toFQDNs"/],
  [
    'L7 rules in a denial',
    'ingressDeny: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]}]',
    /unknown field "rules"/,
  ],
  [
    'DNS rules without ports',
    'egress: [{toPorts: [{rules: {dns: [{matchPattern: "*"}]}}]}]',
    /Port 53 must be specified/,
  ],
  [
    'two kinds of L7 rules',
    'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}], kafka: [{}]}}]}]',
    /multiple L7/,
  ],
  [
    'l7 without its protocol',
    'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {l7: [{a: b}]}}]}]',
    /'l7' may only be specified/,
  ],
  [
    'a listener on ingress',
    'ingress: [{toPorts: [{ports: [{port: "80"}], listener: {name: x}}]}]',
    /Listener is not allowed on ingress \(x\)/,
  ],
  ['an empty server name', 'egress: [{toPorts: [{ports: [{port: "80"}], serverNames: [""]}]}]', /Empty server name/],
  [
    'a header match without name',
    'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{headerMatches: [{value: a}]}]}}]}]',
    /Header name missing/,
  ],
  [
    'a look-around in a path',
    'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "(?=a)"}]}}]}]',
    /error parsing regexp/,
  ],
  ['a label key without name', 'ingress: [{fromEndpoints: [{matchLabels: {"k8s:": a}}]}]', /invalid label selector/],
  [
    'a label prefix in capitals',
    'ingress: [{fromEndpoints: [{matchLabels: {"Example.org/a": b}}]}]',
    /lower-case DNS name/,
  ],
  [
    'a boolean of YAML 1.1 where a string belongs',
    'ingress: [{fromEndpoints: [{matchLabels: {a: yes}}]}]',
    /cannot unmarshal boolean/,
  ],
  ['a list where an object belongs', 'ingress: {}', /cannot unmarshal map: must be a list/],
];

for (const [what, spec, message] of refusals) {
  test(`refused: ${what}`, () => assert.match(refusalOf(policy(spec)), message));
}

test('refused: what is wrong around the spec', () => {
  const object = (fields: string): string => `{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, ${fields}}`;
  assert.match(refusalOf(object('metadata: {name: a}')), /one of spec and specs/);
  assert.match(refusalOf(object('metadata: {namespace: b}, spec: {endpointSelector: {}}')), /must have name/);
  assert.match(
    refusalOf(object('metadata: {name: a}, spec: {endpointSelector: null}')),
    /one of EndpointSelector or NodeSelector/,
  );
  assert.match(refusalOf(object('metadata: {name: a}, specification: {}')), /unknown field "specification"/);
  assert.match(refusalOf('{apiVersion: v1, kind: Pod, metadata: {name: a}}'), /unknown kind "Pod"/);
  assert.match(refusalOf('{apiVersion: v1, kind: NetworkPolicy, metadata: {name: a}, spec: {}}'), /not "v1"/);
  assert.match(refusalOf('a: &x [*x]'), /unknown alias/);
  assert.match(refusalOf('a: 1\na: 2'), /line 2 .*"a" stands twice/);
  assert.match(refusalOf('a: [1'), /line 1/);
});

test('what Cilium accepts is accepted', () => {
  const accepted = [
    'ingress: []',
    'ingress: [{toPorts: [{}]}]',
    'ingress: [{toPorts: [{ports: [{port: "90", endPort: 80}]}]}]',
    'ingress: [{fromCIDR: [10.1.2.3/8, "::1"]}]',
    'ingress: [{fromEndpoints: null, toPorts: [{ports: [{port: http}]}]}]',
    'egress: [{toServices: [{k8sService: {serviceName: a}}], toPorts: [{ports: [{port: "80"}]}]}]',
    'egress: [{toGroups: [{aws: {securityGroupsNames: [a]}}]}]',
    'enableDefaultDeny: {ingress: true}',
    'labels: ["a:b=c", {key: d, source: e}]\ndescription: text',
    'ingress: [{icmps: [{fields: [{type: EchoRequest}, {family: IPv6, type: 128}, {type: "8"}]}]}]',
    'ingress: [{fromEndpoints: [null]}]',
    'ingress: [{fromEntities: [world-ipv4]}]',
    'ingress: [{toPorts: [{ports: [{port: "80", protocol: tcp}]}]}]',
  ];
  for (const spec of accepted) assert.equal(rulesOf(policy(spec)).length, 1, spec);
});

test('merge keys and aliases are read as Cilium reads them', () => {
  const text = policy(`
ingress:
- fromEndpoints: [&cart {matchLabels: {app: cart}}]
- fromEndpoints: [*cart, {matchLabels: {<<: {app: web}, tier: x}}]`);
  const [rule] = rulesOf(text);
  const keys = rule?.ingress.allow.map(({ peers }) =>
    peers.kind === 'endpoints'
      ? peers.selectors.map(({ requirements }) => requirements.map((each) => `${each.key}=${each.values}`))
      : [],
  );
  const namespace = 'io.kubernetes.pod.namespace=shop';
  assert.deepEqual(keys, [
    [['app=cart', namespace]],
    [
      ['app=cart', namespace],
      ['tier=x', 'app=web', namespace],
    ],
  ]);
});

test('CIDR groups have prefixes and the labels of their object', () => {
  const { objects } = parsePolicies(
    '{apiVersion: cilium.io/v2alpha1, kind: CiliumCIDRGroup, metadata: {name: g, labels: {a: b}}, spec: {externalCIDRs: [10.1.2.3/8, 2001:db8::/32]}}',
  );
  const [group] = objects;
  assert.equal(group?.type, 'cidr-group');
  if (group?.type !== 'cidr-group') return;
  assert.deepEqual(group.prefixes.map(formatPrefix), ['10.0.0.0/8', '2001:db8::/32']);
  assert.deepEqual(
    group.labels.map(({ text }) => text),
    ['k8s:a=b'],
  );
});

test('rules are shown as cilium-dbg shows them: scoped selectors, origin labels, defaults', () => {
  const text = policy(`
ingress:
- fromEndpoints: [{matchLabels: {app: cart}}]
  toPorts: [{ports: [{port: "80", protocol: TCP}]}]`);
  assert.deepEqual(rulesOf(text)[0]?.display, {
    endpointSelector: { matchLabels: { 'any:app': 'db', 'k8s:io.kubernetes.pod.namespace': 'shop' } },
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { 'any:app': 'cart', 'k8s:io.kubernetes.pod.namespace': 'shop' } }],
        toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }],
      },
    ],
    labels: [
      { key: 'io.cilium.k8s.policy.derived-from', value: 'CiliumNetworkPolicy', source: 'k8s' },
      { key: 'io.cilium.k8s.policy.name', value: 'p', source: 'k8s' },
      { key: 'io.cilium.k8s.policy.namespace', value: 'shop', source: 'k8s' },
    ],
    enableDefaultDeny: { ingress: true, egress: false },
  });
  const [object] = parsePolicies(text).objects;
  assert.equal(object?.line, 1);
});
