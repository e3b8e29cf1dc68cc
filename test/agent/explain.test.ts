import assert from 'node:assert/strict';
import { test } from 'node:test';
import { always, insideDevice } from '../../src/agent/explain/always.ts';
import type { Party } from '../../src/agent/explain/party.ts';
import { portsWord, readPort } from '../../src/agent/explain/question.ts';
import { allowingPolicy } from '../../src/agent/explain/snippet.ts';
import { identity } from '../../src/core/identity.ts';
import { parsePolicies } from '../../src/policy/language/parse.ts';
import { PolicyModel } from '../../src/policy/model.ts';
import { address, labels, SETTINGS } from '../policy/build.ts';

test('a port is read in either order, an ICMP type by number or name', () => {
  assert.deepEqual(readPort('tcp/80'), { protocol: 6, port: 80 });
  assert.deepEqual(readPort('53/UDP'), { protocol: 17, port: 53 });
  assert.deepEqual(readPort('icmp/EchoRequest'), { protocol: 1, port: 8 });
  assert.deepEqual(readPort('icmpv6/128'), { protocol: 58, port: 128 });
  for (const text of ['', '80', 'tcp', 'tcp/', 'tcp/70000', 'tcp/-1', 'tcp/80/81', 'gre/1', 'icmp/256', 'tcp/1e3'])
    assert.throws(() => readPort(text), { code: 'API-QUESTION' }, text);
  assert.equal(portsWord({ protocol: 17, first: 0, last: 65535 }), 'udp/*');
});

const border = {
  devices: ['eth0'],
  dualStack: false,
  failsafe: { ingress: [{ protocol: 6, port: 22 } as const], egress: [] },
  stores: [{ address: address('192.0.2.9'), port: 2379 }],
  nodes: [address('192.0.2.7')],
  tunnelPort: 8472,
  audit: false,
};

test('what holds in any case holds for exactly that', () => {
  const verdict = (
    direction: 'ingress' | 'egress',
    peer: string,
    text: string,
    hasOverlay = true,
  ): string | undefined =>
    always({ direction, address: address(peer), port: readPort(text), border, hasOverlay })?.verdict;
  assert.equal(verdict('ingress', '198.51.100.1', 'tcp/22'), 'allow');
  assert.equal(verdict('egress', '198.51.100.1', 'tcp/22'), undefined);
  assert.equal(verdict('ingress', '198.51.100.1', 'udp/22'), undefined);
  assert.equal(verdict('egress', '192.0.2.9', 'tcp/2379'), 'allow');
  assert.equal(verdict('ingress', '192.0.2.9', 'tcp/2379'), undefined);
  assert.equal(verdict('egress', '192.0.2.8', 'tcp/2379'), undefined);
  assert.equal(verdict('ingress', '192.0.2.7', 'udp/8472'), 'allow');
  assert.equal(verdict('ingress', '192.0.2.8', 'udp/8472'), 'deny');
  assert.equal(verdict('ingress', '192.0.2.8', 'udp/8472', false), undefined);
  assert.equal(verdict('egress', '192.0.2.8', 'udp/8472'), undefined);
  assert.equal(verdict('ingress', '2001:db8::1', 'icmpv6/135'), 'allow');
  assert.equal(verdict('ingress', '2001:db8::1', 'icmpv6/128'), undefined);
  assert.equal(verdict('ingress', '192.0.2.8', 'icmp/8'), undefined);
});

test('a peer behind a bridge of the machine is inside, one behind its external device is not', () => {
  const device = { index: 1, kind: 'bridge', up: true, mtu: 1500, reason: '' };
  const devices = [
    { ...device, name: 'eth0', role: 'external' as const, addresses: ['192.0.2.1/24'] },
    { ...device, name: 'docker0', role: 'internal' as const, addresses: ['172.17.0.1/16', 'fe80::1/64'] },
  ];
  assert.equal(insideDevice(devices, address('172.17.3.4')), 'docker0');
  assert.equal(insideDevice(devices, address('192.0.2.7')), undefined);
  assert.equal(insideDevice(devices, undefined), undefined);
});

const MACHINE = ['k8s:app=db', 'k8s:io.cilium.k8s.policy.cluster=alpha'];

function party(id: number, texts: readonly string[], text?: string, names: readonly string[] = []): Party {
  const record = { asked: '', self: false, identity: id, labels: texts, source: '', fresh: true };
  return {
    self: false,
    address: text === undefined ? undefined : address(text),
    identity: identity(id),
    labels: labels(...texts),
    record: { ...record, ...(names.length > 0 && { names }) },
  };
}

test('the policy that is recommended allows the flow, and the same flow of others not', () => {
  const machines = [MACHINE, [...MACHINE, 'k8s:io.kubernetes.pod.namespace=shop']];
  const peers = [
    party(70_001, ['k8s:app=web', 'k8s:io.cilium.k8s.policy.cluster=bravo', 'k8s:io.kubernetes.pod.namespace=shop']),
    party(70_002, ['container:role=x']),
    party(6, ['reserved:remote-node']),
    party(2, ['reserved:world'], '203.0.113.9'),
    party(2, ['reserved:world'], '2001:db8::9'),
  ];
  for (const own of machines) {
    for (const peer of peers) {
      for (const direction of ['ingress', 'egress'] as const) {
        for (const port of [undefined, readPort('tcp/80'), readPort('sctp/9'), readPort('icmp/8')]) {
          const text = allowingPolicy({ direction, machine: party(1, own), peer, port });
          assert.ok(text);
          const model = new PolicyModel(SETTINGS);
          model.setSubject(labels(...own));
          for (const each of peers) if (each.address === undefined) model.setIdentity(each.identity, each.labels);
          const [object] = parsePolicies(text).objects;
          assert.equal(object?.type, 'policy', text);
          if (object?.type !== 'policy') continue;
          model.setPolicies('advice', object.rules);
          const named = peer.address && [...model.resolved.prefixes.values()][0]?.identity;
          const asked = port ?? { protocol: 132 as const, port: 4711 };
          const flow = { direction, ...asked };
          assert.equal(model.explain({ ...flow, identity: named ?? peer.identity }).verdict, 'allow', text);
          assert.equal(model.explain({ ...flow, identity: identity(79_999) }).verdict, 'deny', text);
          if (port?.protocol === 6)
            assert.equal(model.explain({ ...flow, port: 81, identity: named ?? peer.identity }).verdict, 'deny', text);
        }
      }
    }
  }
});

test('a world address that was learnt by a name is recommended by its name; who cannot be named is not recommended', () => {
  const flow = { direction: 'egress', machine: party(1, MACHINE), port: readPort('tcp/443') } as const;
  const text = allowingPolicy({ ...flow, peer: party(2, ['reserved:world'], '203.0.113.9', ['api.example.test']) });
  assert.match(text ?? '', /toFQDNs:\n +- matchName: api\.example\.test/);
  assert.equal(allowingPolicy({ ...flow, peer: party(70_003, []) }), undefined);
  assert.equal(allowingPolicy({ ...flow, peer: party(70_004, ['k8s:io.kubernetes.pod.namespace=shop']) }), undefined);
});
