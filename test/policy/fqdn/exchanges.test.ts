import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PacketHeaders } from '../../../src/core/packet.ts';
import type { DnsMessage } from '../../../src/policy/fqdn/dns-message.ts';
import { DnsExchanges } from '../../../src/policy/fqdn/exchanges.ts';
import { address } from '../build.ts';

const US = address('192.0.2.1');
const SERVER = address('192.0.2.53');

function packet(over: Partial<PacketHeaders> = {}): PacketHeaders {
  const ends = { source: US, sourcePort: 40_000, destination: SERVER, destinationPort: 53 };
  return { ...ends, protocol: 17, tcpFlags: 0, icmpCode: 0, fragment: false, length: 100, payloadAt: 28, ...over };
}

const back = (over: Partial<PacketHeaders> = {}): PacketHeaders =>
  packet({ source: SERVER, sourcePort: 53, destination: US, destinationPort: 40_000, ...over });

const message = (over: Partial<DnsMessage> = {}): DnsMessage => ({
  id: 7,
  response: false,
  name: 'a.io',
  addresses: [],
  ...over,
});
const ANSWER = message({ response: true });

function exchanges(options: { maxQueries?: number } = {}) {
  const clock = { now: 0 };
  return { clock, seen: new DnsExchanges({ ...options, now: () => clock.now }) };
}

test('an answer counts once, with the ends, the id and the name of its query', () => {
  const { seen } = exchanges();
  assert.equal(seen.answered(back(), ANSWER), false, 'nobody asked');
  seen.asked(packet(), message());
  assert.equal(seen.answered(back(), message({ response: true, id: 8 })), false, 'id');
  assert.equal(seen.answered(back(), message({ response: true, name: 'b.io' })), false, 'name');
  assert.equal(seen.answered(back({ destinationPort: 40_001 }), ANSWER), false, 'port');
  assert.equal(seen.answered(back({ source: address('192.0.2.54') }), ANSWER), false, 'server');
  assert.equal(seen.answered(back({ sourcePort: 54 }), ANSWER), false, 'port of the server');
  assert.equal(seen.answered(back(), message()), false, 'a query is no answer');
  assert.equal(seen.answered(back(), ANSWER), true);
  assert.equal(seen.answered(back(), ANSWER), false, 'once more');
});

test('a program that asks for both families under one id gets both', () => {
  const { seen } = exchanges();
  seen.asked(packet(), message());
  seen.asked(packet(), message());
  assert.deepEqual([seen.answered(back(), ANSWER), seen.answered(back(), ANSWER)], [true, true]);
  assert.equal(seen.answered(back(), ANSWER), false);
  assert.equal(seen.size, 0);
});

test('an answer that comes too late does not count', () => {
  const { clock, seen } = exchanges();
  seen.asked(packet(), message());
  clock.now = 10_001;
  assert.equal(seen.answered(back(), ANSWER), false);
  assert.equal(seen.size, 0);
});

test('what is sent as an answer is no query, and the table is bounded: the oldest go', () => {
  const { seen } = exchanges({ maxQueries: 100 });
  seen.asked(packet(), ANSWER);
  assert.equal(seen.size, 0);
  for (let id = 0; id < 1000; id++) seen.asked(packet(), message({ id }));
  assert.equal(seen.size, 100);
  assert.equal(seen.answered(back(), message({ response: true, id: 899 })), false);
  assert.equal(seen.answered(back(), message({ response: true, id: 900 })), true);
});
