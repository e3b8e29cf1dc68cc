import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatAddress } from '../../src/core/ip.ts';
import { readPacket } from '../../src/core/packet.ts';

const shown = (hex: string): string => {
  const packet = readPacket(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
  if (packet === undefined) return 'nothing';
  const { source, destination, protocol, sourcePort, destinationPort, tcpFlags, payloadAt } = packet;
  return `${formatAddress(source)}:${sourcePort} ${formatAddress(destination)}:${destinationPort} ${protocol} ${tcpFlags} ${payloadAt}`;
};

const IPV4 = '45000000 00004000 40PP0000 0a000001 0a000002';
const IPV6 = '60000000 0000NN40 20010db8000000000000000000000001 20010db8000000000000000000000002';

test('TCP, UDP and ICMP over IPv4', () => {
  const tcp = '9c400050 00000001 00000000 50020000 00000000';
  assert.equal(shown(IPV4.replace('PP', '06') + tcp), '10.0.0.1:40000 10.0.0.2:80 6 2 40');
  assert.equal(shown(`${IPV4.replace('PP', '11')}00350400 00080000`), '10.0.0.1:53 10.0.0.2:1024 17 0 28');
  assert.equal(shown(`${IPV4.replace('PP', '01')}08000000 00000000`), '10.0.0.1:0 10.0.0.2:8 1 0 28');
});

test('IPv6 with extension headers before the transport', () => {
  const udp = '00350400 00080000';
  assert.equal(shown(IPV6.replace('NN', '11') + udp), '2001:db8::1:53 2001:db8::2:1024 17 0 48');
  assert.equal(shown(`${IPV6.replace('NN', '00')}1100 0000 00000000${udp}`), '2001:db8::1:53 2001:db8::2:1024 17 0 56');
});

test('a later fragment has no ports', () => {
  const fragment = IPV4.replace('PP', '11').replace('00004000', '00000010');
  assert.equal(shown(`${fragment}00350400`), '10.0.0.1:0 10.0.0.2:0 17 0 24');
});

test('any bytes are read without an error', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), fc.constantFrom(0x45, 0x4f, 0x60), (bytes, first) => {
      const data = Buffer.from(bytes);
      if (data.length > 0) data[0] = first;
      const packet = readPacket(data);
      assert.ok(packet === undefined || packet.payloadAt <= data.length);
    }),
    { numRuns: 5000 },
  );
});
