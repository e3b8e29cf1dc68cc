import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PROTOCOL } from '../../src/policy/result.ts';
import { APP, modelWith, NOBODY, WEB } from './build.ts';

const POLICY = `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: cart}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  - fromEndpoints: [{matchExpressions: [{key: app, operator: In, values: [web, shop]}]}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  - fromEntities: [host]
    authentication: {mode: required}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: cart}}]
    toPorts: [{ports: [{port: "25", protocol: TCP}]}]
`;
const at = (port: number) => ({ direction: 'ingress', protocol: PROTOCOL.tcp, port }) as const;

test('the nearest rules allow the same peer on other ports, or the same port to other peers', () => {
  const model = modelWith(POLICY);
  const cart = model.nearest({ ...at(443), identity: APP });
  assert.deepEqual(
    cart.samePeer.map(({ ref, ports }) => [ref.path, ports?.map(({ first }) => first)]),
    [['spec.ingress[0]', [80]]],
  );
  assert.deepEqual(
    cart.samePort.map(({ ref, peers }) => [ref.path, peers]),
    [['spec.ingress[1]', ['any:app in (shop, web), k8s:io.kubernetes.pod.namespace=shop']]],
  );
});

test('a rule that denies or asks for authentication is no help', () => {
  const model = modelWith(POLICY);
  const { samePeer, samePort } = model.nearest({ ...at(25), identity: NOBODY });
  assert.deepEqual([samePeer, samePort], [[], []]);
  assert.deepEqual(
    model.nearest({ ...at(25), identity: WEB }).samePeer.map(({ ref }) => ref.path),
    ['spec.ingress[1]'],
  );
});

test('who asks for default deny is known for each direction', () => {
  const model = modelWith(POLICY);
  assert.deepEqual(
    model.defaultDenyOf('ingress').map(({ policy }) => policy),
    ['CiliumNetworkPolicy/shop/web'],
  );
  assert.deepEqual(model.defaultDenyOf('egress'), []);
});
