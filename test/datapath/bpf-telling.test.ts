import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { readPacket } from '../../src/core/packet.ts';
import { NAME_LOG } from '../../src/datapath/name-log.ts';
import { until } from '../lab/namespace.ts';
import { Driver } from './suite/driver.ts';
import type { PolicySpec } from './suite/spec.ts';
import { M, P, type Wire, wire } from './suite/wire.ts';

// What the programs tell of packets, by their ring buffer.

const PEER = 70_000;
const hosts = { [P.v4]: PEER, [P.v6]: PEER };
const allow = (...rows: string[]): PolicySpec => ({ of: { [PEER]: rows } });

let lab: Wire;
let driver: Driver;
before(async () => {
  lab = await wire('telling', { tcp: [80, 81], udp: [53, 80] });
  driver = await Driver.start('bpf', lab.machine.namespace);
  assert.equal(await driver.order('hear', { what: 'verdicts' }), true);
  assert.equal(await driver.order('hear', { what: 'names' }), true);
});
after(async () => {
  await driver?.close();
  await lab?.close();
});

const told = (prefix: string) =>
  driver.events
    .filter(({ event, what }) => event === 'told' && what === prefix)
    .map(({ message = '' }) => readPacket(Buffer.from(message, 'hex')));

test('queries that leave are told of, and the answers to them; what comes unasked is not', async () => {
  await driver.apply({ hosts, watchNames: true, ingress: allow('allow any'), egress: allow('allow any') });
  for (const to of [P.v4, P.v6])
    assert.equal(await lab.machine.probe({ protocol: 'udp', to, port: 53, timeoutMs: 3000 }), 'pass');
  assert.equal(await lab.peer.probe({ protocol: 'udp', to: M.v4, port: 53, timeoutMs: 3000 }), 'pass');
  await until('both are told of', () => told(NAME_LOG.answer).length === 2);
  assert.deepEqual(
    [told(NAME_LOG.query), told(NAME_LOG.answer)].map((packets) =>
      packets.map((packet) => [packet?.destinationPort, packet?.sourcePort].includes(53)),
    ),
    [
      [true, true],
      [true, true],
    ],
  );
  await driver.apply({ hosts, ingress: allow('allow any'), egress: allow('allow any') });
  assert.equal(await lab.machine.probe({ protocol: 'udp', to: P.v4, port: 53, timeoutMs: 3000 }), 'pass');
  assert.equal(told(NAME_LOG.query).length, 2);
});

test('verdicts are told of with their headers, up to a rate for each kind, and counted beyond it', async () => {
  await driver.apply({ hosts, tellRate: 5, ingress: allow('allow tcp/80', 'deny tcp/81'), egress: {} });
  const before = await driver.status();
  const flow = await lab.peer.flow(M.v4, 80, { everyMs: 5, fresh: true, bytes: 3000 });
  assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v6, port: 81, timeoutMs: 300 }), 'blocked');
  await new Promise((resolve) => setTimeout(resolve, 500));
  const { sent } = await flow.stop();
  await until('the counters are read', async () => {
    const { denied } = await driver.status();
    return denied.ingress.packets - before.denied.ingress.packets >= sent;
  });
  const { told: count = 0 } = await driver.status();
  const [noRule, denied] = [told('mesh-agent:no_rule_in'), told('mesh-agent:deny_rule_in')];
  assert.ok(noRule.length >= 5 && noRule.length <= 25 && noRule.length < sent, `${noRule.length} of ${sent}`);
  assert.equal(count - (before.told ?? 0), noRule.length + denied.length);
  assert.deepEqual([noRule[0]?.protocol, noRule[0]?.destinationPort], [17, 80]);
  assert.deepEqual([denied[0]?.protocol, denied[0]?.destinationPort], [6, 81]);
});

test('new connections that are allowed are told of while somebody wants to know', async () => {
  const state = { hosts, tellRate: 100, ingress: allow('allow tcp/80'), egress: allow('allow tcp/80') };
  await driver.apply({ ...state, watchAllowed: true });
  assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 80, timeoutMs: 3000 }), 'pass');
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: P.v4, port: 80, timeoutMs: 3000 }), 'pass');
  await until('each is told of', () => told('mesh-agent:allowed_out').length > 0);
  assert.deepEqual([told('mesh-agent:allowed_in').length, told('mesh-agent:allowed_out').length], [1, 1]);
  await driver.apply(state);
  assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 80, timeoutMs: 3000 }), 'pass');
  assert.equal(told('mesh-agent:allowed_in').length, 1);
});
