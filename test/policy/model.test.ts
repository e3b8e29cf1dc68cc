import assert from 'node:assert/strict';
import { test } from 'node:test';
import { identity, LOCAL_SCOPE, type NumericIdentity, RESERVED } from '../../src/core/identity.ts';
import { judge } from '../../src/datapath/judge.ts';
import type { PolicyModel } from '../../src/policy/model.ts';
import type { Direction } from '../../src/policy/result.ts';
import { APP, address, identityOfAddress, labels, modelWith, NOBODY, policy, prefix, rulesOf, WEB } from './build.ts';

const TCP = 6;
const UDP = 17;
const ICMP = 1;

function verdict(
  model: PolicyModel,
  id: NumericIdentity,
  port: number,
  direction: Direction = 'ingress',
  protocol = TCP,
) {
  return judge(model.resolved[direction], { identity: id, protocol, port });
}

const rowsOf = (model: PolicyModel, id: NumericIdentity, direction: Direction = 'ingress') =>
  model.resolved[direction]
    .classOf(id)
    .rows.map(({ protocol, first, last, verdict: is, audit }) =>
      [protocol, first, last, is, ...(audit === true ? ['audit'] : [])].join(' '),
    );

test('nothing is enforced before the machine is registered, and then at once', () => {
  const model = modelWith(policy('ingress: [{}]'));
  assert.equal(verdict(model, APP, 80), 'deny');
  model.setSubject(undefined);
  assert.equal(model.resolved.ingress.enforcing, false);
  assert.equal(verdict(model, APP, 80), 'allow');
  assert.deepEqual(rowsOf(model, APP), ['0 0 65535 allow']);
});

test('a denial wins over every allow, whichever is wider', () => {
  const model = modelWith(
    policy(`
ingress:
- fromEndpoints: [{matchLabels: {app: cart}}]
- toPorts: [{ports: [{port: "443", protocol: TCP}]}]
ingressDeny:
- fromEndpoints: [{matchLabels: {app: cart}}]
  toPorts: [{ports: [{port: "400", endPort: 500, protocol: TCP}]}]`),
  );
  assert.deepEqual(rowsOf(model, APP), ['0 0 65535 allow', '6 400 500 deny']);
  assert.deepEqual(rowsOf(model, WEB), ['6 443 443 allow']);
});

test('neighbors are joined, and a port inside a range costs one row more', () => {
  const model = modelWith(
    policy(`
ingress:
- toPorts: [{ports: [{port: "80", endPort: 89, protocol: TCP}, {port: "90", endPort: 99, protocol: TCP}]}]
- toPorts: [{ports: [{port: "95", endPort: 200, protocol: TCP}]}]
ingressDeny:
- toPorts: [{ports: [{port: "150", protocol: TCP}]}]`),
  );
  assert.deepEqual(rowsOf(model, APP), ['6 80 200 allow', '6 150 150 deny']);
});

test('a row names the rules that decide it, with policy, path and line', () => {
  const model = modelWith(policy('ingress:\n- toPorts: [{ports: [{port: "80", protocol: TCP}]}]\n- {}'));
  const [row] = model.resolved.ingress.classOf(APP).rows;
  assert.deepEqual(row?.rules, [{ policy: 'CiliumNetworkPolicy/shop/p', path: 'spec.ingress[0]', line: 7 }]);
});

test('numbers without known labels are reached by wildcards alone', () => {
  const model = modelWith(
    policy(`
ingress:
- fromEntities: [all]
  toPorts: [{ports: [{port: "1", protocol: TCP}]}]
- fromEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [x]}]}]
  toPorts: [{ports: [{port: "2", protocol: TCP}]}]`),
  );
  assert.equal(verdict(model, NOBODY, 1), 'allow');
  assert.equal(verdict(model, NOBODY, 2), 'deny');
  assert.equal(verdict(model, RESERVED.world, 2), 'allow');
  assert.equal(model.resolved.ingress.classOf(NOBODY), model.resolved.ingress.unknownClass);
});

test('prefixes get local identities, excepts too, the whole world none', () => {
  const model = modelWith(
    policy(`
egress:
- toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
- toCIDR: [0.0.0.0/0]
  toPorts: [{ports: [{port: "443", protocol: TCP}]}]`),
  );
  assert.deepEqual([...model.resolved.prefixes.keys()].sort(), ['10.0.0.0/8', '10.1.0.0/16']);
  for (const { identity: id } of model.resolved.prefixes.values()) assert.equal(Math.floor(id / LOCAL_SCOPE), 1);
  assert.equal(verdict(model, identityOfAddress(model, '10.2.0.1'), 80, 'egress'), 'allow');
  assert.equal(verdict(model, identityOfAddress(model, '10.1.0.1'), 80, 'egress'), 'deny');
  assert.equal(verdict(model, identityOfAddress(model, '10.1.0.1'), 443, 'egress'), 'allow');
  assert.equal(verdict(model, RESERVED.world, 443, 'egress'), 'allow');
  model.setPolicies('0', undefined);
  assert.equal(model.resolved.prefixes.size, 0);
});

test('a prefix keeps its number while other policies come and go', () => {
  const model = modelWith(policy('egress: [{toCIDR: [192.0.2.0/24]}]'));
  const before = model.resolved.prefixes.get('192.0.2.0/24')?.identity;
  model.setPolicies('x', rulesOf(policy('egress: [{toCIDR: [10.0.0.0/8, 192.0.2.0/24]}]')));
  assert.equal(model.resolved.prefixes.get('192.0.2.0/24')?.identity, before);
  model.setPolicies('0', undefined);
  assert.equal(model.resolved.prefixes.get('192.0.2.0/24')?.identity, before);
});

test('a number of the local scope that a cluster uses is left to it', () => {
  const model = modelWith(policy('egress: [{toCIDR: [192.0.2.0/24]}]'));
  const taken = model.resolved.prefixes.get('192.0.2.0/24')?.identity ?? identity(0);
  model.drainChanges();
  model.setIdentity(taken, labels('cidr:203.0.113.5/32', 'reserved:kube-apiserver', 'reserved:world'));
  const now = model.resolved.prefixes.get('192.0.2.0/24')?.identity ?? identity(0);
  assert.notEqual(now, taken);
  assert.deepEqual([...model.drainChanges().prefixes], ['192.0.2.0/24']);
  assert.equal(verdict(model, taken, 80, 'egress'), 'deny');
  assert.equal(verdict(model, now, 80, 'egress'), 'allow');
});

test('names select the addresses that DNS gave, until it takes them back', () => {
  const model = modelWith(policy('egress: [{toFQDNs: [{matchPattern: "*.Example.org."}]}]'));
  assert.equal(verdict(model, identityOfAddress(model, '192.0.2.1'), 80, 'egress'), 'deny');
  model.setNames('A.example.org.', [address('192.0.2.1'), address('2001:db8::1')]);
  assert.equal(verdict(model, identityOfAddress(model, '192.0.2.1'), 80, 'egress'), 'allow');
  assert.equal(verdict(model, identityOfAddress(model, '2001:db8::1'), 80, 'egress'), 'allow');
  model.setNames('a.example.org', []);
  assert.equal(model.resolved.prefixes.size, 0);
});

test('a CIDR group that comes later takes effect in the policies that name it', () => {
  const model = modelWith(policy('ingress: [{fromCIDRSet: [{cidrGroupRef: partners}]}]'));
  assert.match(model.effectOf('0').messages.join(), /CIDR group partners is not known/);
  model.setCidrGroup('partners', { labels: [], prefixes: [prefix('192.0.2.0/24')] });
  assert.equal(verdict(model, identityOfAddress(model, '192.0.2.9'), 80), 'allow');
  assert.deepEqual(model.effectOf('0').messages, []);
  model.setCidrGroup('partners', undefined);
  assert.equal(verdict(model, identityOfAddress(model, '192.0.2.9'), 80), 'deny');
});

test('groups are selected by their labels', () => {
  const model = modelWith(policy('ingress: [{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {kind: partner}}}]}]'));
  model.setCidrGroup('a', { labels: labels('k8s:kind=partner'), prefixes: [prefix('192.0.2.0/24')] });
  model.setCidrGroup('b', { labels: labels('k8s:kind=other'), prefixes: [prefix('10.0.0.0/8')] });
  assert.equal(verdict(model, identityOfAddress(model, '192.0.2.9'), 80), 'allow');
  assert.equal(verdict(model, identityOfAddress(model, '10.0.0.9'), 80), 'deny');
});

test('port names of ingress are ours, those of egress belong to each peer', () => {
  const spec =
    'ingress: [{toPorts: [{ports: [{port: HTTP, protocol: TCP}]}]}]\negress: [{toPorts: [{ports: [{port: http}]}]}]';
  const model = modelWith(policy(spec));
  assert.match(model.effectOf('0').messages.join(), /offers no port named http/);
  model.setSubject(labels('k8s:app=db', 'k8s:io.kubernetes.pod.namespace=shop'), [
    { name: 'http', protocol: TCP, port: 8080 },
  ]);
  assert.equal(verdict(model, APP, 8080), 'allow');
  model.setNamedPorts(APP, [{ name: 'http', protocol: TCP, port: 81 }]);
  model.setNamedPorts(WEB, [
    { name: 'http', protocol: TCP, port: 82 },
    { name: 'http', protocol: TCP, port: 83 },
    { name: 'http', protocol: UDP, port: 84 },
  ]);
  assert.equal(verdict(model, APP, 81, 'egress'), 'allow');
  assert.equal(verdict(model, APP, 82, 'egress'), 'deny');
  assert.equal(verdict(model, WEB, 82, 'egress'), 'deny', 'a name that stands for two numbers stands for none');
  assert.equal(verdict(model, WEB, 84, 'egress', UDP), 'allow');
  assert.equal(model.resolved.egress.classOf(RESERVED.host), model.resolved.egress.unknownClass);
});

test('what needs a proxy is held back and said, the rest of the entry stays', () => {
  const model = modelWith(
    policy(`
ingress:
- fromEndpoints: [{}]
  toPorts:
  - ports: [{port: "80", protocol: TCP}]
    rules: {http: [{method: GET}]}
  - ports: [{port: "81", protocol: TCP}]`),
  );
  assert.deepEqual(rowsOf(model, APP), ['6 81 81 allow']);
  const { messages, heldBack } = model.effectOf('0');
  assert.match(messages[0] ?? '', /spec\.ingress\[0\]\.toPorts\[0\] \(line 9\): needs L7 proxy \(http rules\)/);
  assert.equal(heldBack, 1);
});

test('DNS rules that let every query pass need no proxy, others do', () => {
  const dns = (item: string) => policy(`egress: [{toPorts: [{ports: [{port: "53"}], rules: {dns: [${item}]}}]}]`);
  assert.equal(verdict(modelWith(dns('{matchPattern: "*"}')), APP, 53, 'egress', UDP), 'allow');
  assert.equal(verdict(modelWith(dns('{matchPattern: "*.io"}')), APP, 53, 'egress', UDP), 'deny');
});

test('services and groups select nobody, even with ports', () => {
  for (const peers of ['toServices: [{k8sService: {serviceName: a}}]', 'toGroups: [{aws: {region: x}}]']) {
    const model = modelWith(policy(`egress: [{${peers}, toPorts: [{ports: [{port: "80"}]}]}]`));
    assert.equal(verdict(model, APP, 80, 'egress'), 'deny');
    assert.match(model.effectOf('0').messages.join(), /selects nobody/);
  }
});

test('a demand for authentication is not met: by the most specific entry, or taken over from a wider one', () => {
  const model = modelWith(
    policy(`
ingress:
- fromEndpoints: [{matchLabels: {app: cart}}]
  authentication: {mode: required}
- fromEndpoints: [{matchLabels: {app: cart}}]
  toPorts: [{ports: [{port: "80", protocol: TCP}]}]
- fromEndpoints: [{matchLabels: {app: cart}}]
  authentication: {mode: disabled}
  toPorts: [{ports: [{port: "81", protocol: TCP}]}]
- fromEndpoints: [{matchLabels: {app: web}}]
- fromEndpoints: [{matchLabels: {app: web}}]
  authentication: {mode: test-always-fail}
  toPorts: [{ports: [{port: "82", protocol: TCP}]}]`),
  );
  assert.equal(verdict(model, APP, 9), 'deny');
  assert.equal(verdict(model, APP, 80), 'deny');
  assert.equal(verdict(model, APP, 81), 'allow');
  assert.equal(verdict(model, WEB, 80), 'allow');
  assert.equal(verdict(model, WEB, 82), 'deny');
  const explanation = model.explain({ direction: 'ingress', identity: WEB, protocol: TCP, port: 82 });
  assert.equal(explanation.reason, 'needs-authentication');
  assert.deepEqual(
    explanation.rules.map(({ path }) => path),
    ['spec.ingress[4]'],
  );
});

const AUDIT = ', annotations: {mesh-agent.io/audit: "true"}';

test('an audited policy reports what its default deny would deny', () => {
  const model = modelWith(policy('ingress: [{fromEndpoints: [{matchLabels: {app: cart}}]}]', AUDIT));
  assert.deepEqual(rowsOf(model, APP), ['0 0 65535 allow']);
  assert.deepEqual(rowsOf(model, WEB), ['0 0 65535 deny audit']);
  assert.equal(verdict(model, NOBODY, 80), 'allow');
  const { reason, audit, verdict: is } = model.explain({ direction: 'ingress', identity: WEB, protocol: TCP, port: 1 });
  assert.deepEqual([reason, audit, is], ['default-deny', true, 'deny']);
});

test('an audited denial is reported where the flow would pass without it, and stands where it would not', () => {
  const deny =
    'ingressDeny: [{fromEndpoints: [{matchLabels: {app: cart}}], toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}]}]}]';
  const model = modelWith(policy(deny, AUDIT));
  model.setPolicies('real', rulesOf(policy('ingress: [{toPorts: [{ports: [{port: "85", protocol: TCP}]}]}]')));
  assert.deepEqual(rowsOf(model, APP), ['6 80 90 deny', '6 85 85 deny audit']);
  assert.equal(verdict(model, APP, 85), 'allow');
  assert.equal(verdict(model, APP, 80), 'deny', 'the default deny of the other policy is in earnest');
});

test('a denial in earnest stands beside an audited one', () => {
  const deny = 'ingressDeny: [{fromEndpoints: [{matchLabels: {app: cart}}]}]';
  const model = modelWith(policy(deny, AUDIT));
  model.setPolicies('real', rulesOf(policy(deny)));
  assert.deepEqual(rowsOf(model, APP), ['0 0 65535 deny']);
});

test('enforcement always denies in earnest whatever is audited', () => {
  const model = modelWith(policy('ingress: [{}]', AUDIT), { enforcement: 'always' });
  assert.equal(verdict(model, APP, 80), 'deny');
  assert.equal(verdict(model, APP, 80, 'egress'), 'deny');
});

test('ICMP type 0 acts as every type', () => {
  const model = modelWith(policy('ingress: [{icmps: [{fields: [{type: EchoReply}]}]}]'));
  assert.deepEqual(rowsOf(model, APP), ['1 0 65535 allow']);
  assert.equal(verdict(model, APP, 8, 'ingress', ICMP), 'allow');
});

test('a reserved identity may be given labels and gets its own back', () => {
  const model = modelWith(policy('ingress: [{fromEndpoints: [{matchLabels: {"reserved:kube-apiserver": ""}}]}]'));
  assert.equal(verdict(model, RESERVED.host, 80), 'deny');
  model.setIdentity(RESERVED.host, labels('reserved:host', 'reserved:kube-apiserver'));
  assert.equal(verdict(model, RESERVED.host, 80), 'allow');
  model.removeIdentity(RESERVED.host);
  assert.equal(verdict(model, RESERVED.host, 80), 'deny');
});

test('a policy that is replaced changes rows, and the class of nobody', () => {
  const spec = (port: number) =>
    `ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: "${port}", protocol: TCP}]}]}]`;
  const model = modelWith(policy(spec(80)));
  const { id } = model.resolved.ingress.classOf(APP);
  model.drainChanges();
  model.setPolicies('0', rulesOf(policy(spec(81))));
  const { ingress, egress } = model.drainChanges();
  assert.deepEqual([...ingress.classes], [id]);
  assert.equal(ingress.identities.size, 0);
  assert.equal(egress.classes.size, 0);
  assert.deepEqual(rowsOf(model, APP), ['6 81 81 allow']);
});

test('a class whose members all move on keeps its number', () => {
  const model = modelWith(policy('ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: "80"}]}]}]'));
  const { id } = model.resolved.ingress.classOf(APP);
  model.drainChanges();
  model.setPolicies(
    'more',
    rulesOf(policy('ingress: [{fromEndpoints: [{matchLabels: {}}, {matchLabels: {app: x}}]}]')),
  );
  assert.equal(model.resolved.ingress.classOf(APP).id, id);
  const { ingress } = model.drainChanges();
  assert.equal(ingress.identities.size, 0);
  assert.deepEqual([...ingress.classes], [id]);
});

test('the same facts again change nothing', () => {
  const model = modelWith(policy('egress: [{toCIDR: [192.0.2.0/24]}]'));
  const { resolved } = model;
  model.drainChanges();
  model.setIdentity(
    APP,
    labels('k8s:app=cart', 'k8s:io.cilium.k8s.policy.cluster=alpha', 'k8s:io.kubernetes.pod.namespace=shop'),
  );
  model.setNames('a.b', []);
  model.removeIdentity(NOBODY);
  model.setPolicies('unknown', undefined);
  assert.equal(model.resolved, resolved);
});

test('the revision is raised by every change of rules', () => {
  const model = modelWith(policy('ingress: [{}]'));
  const { revision } = model.resolved;
  model.setPolicies('0', rulesOf(policy('ingress: [{}]')));
  assert.equal(model.resolved.revision, revision + 1);
});
