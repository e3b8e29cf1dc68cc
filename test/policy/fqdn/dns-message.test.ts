import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatAddress } from '../../../src/core/ip.ts';
import { type DnsMessage, readDnsMessage } from '../../../src/policy/fqdn/dns-message.ts';

function wireName(name: string): Buffer {
  const labels = name === '' ? [] : name.split('.');
  return Buffer.concat([
    ...labels.map((label) => Buffer.from([label.length, ...Buffer.from(label)])),
    Buffer.from([0]),
  ]);
}

function record(owner: Buffer, type: number, data: Buffer, ttl = 60): Buffer {
  const fixed = Buffer.alloc(10);
  fixed.writeUInt16BE(type, 0);
  fixed.writeUInt16BE(1, 2);
  fixed.writeUInt32BE(ttl, 4);
  fixed.writeUInt16BE(data.length, 8);
  return Buffer.concat([owner, fixed, data]);
}

function response(question: string, records: readonly Buffer[], flags = 0x8180): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(0x1234, 0);
  header.writeUInt16BE(flags, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, wireName(question), Buffer.from([0, 1, 0, 1]), ...records]);
}

const ip = (text: string): Buffer => Buffer.from(text.split('.').map(Number));
const shown = (message: DnsMessage | undefined) =>
  message?.addresses.map(({ address, ttl }) => `${formatAddress(address)} ${ttl}`);

test('addresses of both families answer the question', () => {
  const v6 = Buffer.from('20010db8000000000000000000000007', 'hex');
  const pointer = Buffer.from([0xc0, 12]);
  const message = readDnsMessage(
    response('API.Example.com', [record(pointer, 1, ip('192.0.2.1'), 30), record(pointer, 28, v6, 40)]),
  );
  assert.equal(message?.name, 'api.example.com');
  assert.equal(message.id, 0x1234);
  assert.deepEqual(shown(message), ['192.0.2.1 30', '2001:db8::7 40']);
});

test('an alias counts for the name that was asked, and as long as its shortest link', () => {
  const message = readDnsMessage(
    response('www.example.com', [
      record(wireName('www.example.com'), 5, wireName('edge.cdn.net'), 20),
      record(wireName('edge.cdn.net'), 1, ip('198.51.100.9'), 300),
    ]),
  );
  assert.deepEqual(shown(message), ['198.51.100.9 20']);
});

test('an address of a name that nobody asked for is not believed', () => {
  const message = readDnsMessage(
    response('a.example.com', [record(wireName('bank.example.org'), 1, ip('203.0.113.66'))]),
  );
  assert.deepEqual(shown(message), []);
});

test('a failed response and a query have no addresses', () => {
  const records = [record(wireName('a.example.com'), 1, ip('192.0.2.1'))];
  assert.deepEqual(readDnsMessage(response('a.example.com', records, 0x8183))?.addresses, []);
  const query = readDnsMessage(response('a.example.com', records, 0x0100));
  assert.deepEqual([query?.response, query?.addresses], [false, []]);
});

test('a label with a dot inside is no name', () => {
  const packet = response('abcde', []);
  packet.write('ab.de', 13, 'latin1');
  assert.equal(readDnsMessage(packet), undefined);
});

test('compression that leads in a circle or forward ends', () => {
  const circle = response('a', [record(Buffer.from([0xc0, 19]), 1, ip('192.0.2.1'))]);
  assert.deepEqual(shown(readDnsMessage(circle)), []);
  const start = Buffer.alloc(16);
  start.writeUInt16BE(1, 4);
  start.writeUInt16BE(0xc00c, 12);
  assert.equal(readDnsMessage(start), undefined);
});

test('any bytes are read without an error, and any cut of a good message too', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      readDnsMessage(Buffer.from(bytes));
    }),
    { numRuns: 2000 },
  );
  const good = response('www.example.com', [
    record(Buffer.from([0xc0, 12]), 5, wireName('edge.cdn.net')),
    record(wireName('edge.cdn.net'), 1, ip('198.51.100.9')),
  ]);
  for (let length = 0; length < good.length; length++) {
    const addresses = readDnsMessage(good.subarray(0, length))?.addresses ?? [];
    assert.equal(addresses.length, 0, `cut to ${length}`);
  }
});
