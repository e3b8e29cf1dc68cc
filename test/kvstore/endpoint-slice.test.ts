import assert from 'node:assert/strict';
import { test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { decodeClusterConfig, factKinds, saysCached } from '../../src/kvstore/codec/cluster-config.ts';
import { decodeEndpointSlice } from '../../src/kvstore/codec/endpoint-slice.ts';
import { BadValue } from '../../src/kvstore/codec/json.ts';
import { type SliceFields, sliceMessage, sliceValue } from '../lab/slice-value.ts';

const EXPECTED = { cluster: 'c', clusterId: 5 };
const SLICE: SliceFields = {
  cluster: 'c',
  clusterId: 5,
  namespace: 'ns',
  name: 'web-abcde',
  service: 'web',
  endpoints: [{ addresses: ['10.0.0.1'], ready: true, serving: true, terminating: false, node: 'n1' }],
  ports: [{ name: 'http', port: 8080 }],
};

const decode = (changes: Partial<SliceFields> = {}, key = 'ns/web-abcde') =>
  decodeEndpointSlice(key, sliceValue({ ...SLICE, ...changes }), EXPECTED);

test('a slice as Cilium 1.20 writes it', () => {
  const { service, ports, backends, namespace, name } = decode();
  assert.deepEqual([namespace, name, service], ['ns', 'web-abcde', 'web']);
  assert.deepEqual(ports, [{ name: 'http', protocol: 'TCP', port: 8080 }]);
  assert.deepEqual([...backends], [['10.0.0.1', undefined]]);
});

test('conditions are read as Cilium reads them: what is not said is ready, and serving as far as it is ready', () => {
  const of = (conditions: { ready?: boolean; serving?: boolean; terminating?: boolean }) =>
    decode({ endpoints: [{ addresses: ['10.0.0.1'], ...conditions }] }).backends.get('10.0.0.1');
  assert.equal(of({}), undefined);
  assert.equal(of({ ready: true, serving: false }), undefined);
  assert.equal(of({ ready: false }), 'not-ready');
  assert.equal(of({ ready: false, serving: false, terminating: true }), 'not-ready');
  assert.equal(of({ ready: false, serving: true, terminating: true }), 'terminating');
  assert.equal(of({ ready: false, serving: true }), undefined);
});

test('addresses become canonical, one that is listed twice is as ready as its best entry, and a port for all ports is none', () => {
  const slice = decode({
    addressType: 'IPv6',
    endpoints: [
      { addresses: ['FD00:0::1', 'fd00::2'], ready: false },
      { addresses: ['fd00::1'], ready: false, serving: true, terminating: true },
      { addresses: ['fd00::2'] },
    ],
    ports: [{ name: 'all' }, { protocol: 'UDP', port: 53 }],
  });
  assert.deepEqual(
    [...slice.backends],
    [
      ['fd00::1', 'terminating'],
      ['fd00::2', undefined],
    ],
  );
  assert.deepEqual(slice.ports, [{ name: '', protocol: 'UDP', port: 53 }]);
});

test('host names are read for DNS, and what is no name is left out', () => {
  const { backends, hostnames } = decode({
    endpoints: [
      { addresses: ['10.0.0.1'], hostname: 'db-0' },
      { addresses: ['10.0.0.2'], hostname: 'DB_1.evil' },
      { addresses: ['10.0.0.3'] },
    ],
  });
  assert.deepEqual([[...hostnames], backends.size], [[['10.0.0.1', 'db-0']], 3]);
});

const many = (count: number) => Array.from({ length: count }, (_, n) => ({ addresses: [`10.0.${n >> 8}.${n & 255}`] }));

const REFUSED: readonly [what: string, changes: Partial<SliceFields>, reason: RegExp][] = [
  ['another cluster', { cluster: 'd' }, /cluster "d" is not c/],
  ['another cluster id', { clusterId: 6 }, /clusterID 6 is not 5/],
  ['another name', { name: 'x' }, /"ns\/x" is not the key/],
  ['another namespace', { namespace: 'kube-system' }, /is not the key/],
  ['no service', { service: '' }, /names no service/],
  ['a service of another namespace', { service: 'x/y' }, /names no service/],
  ['names in place of addresses', { addressType: 'FQDN' }, /neither IPv4 nor IPv6/],
  ['an address of the other family', { endpoints: [{ addresses: ['fd00::1'] }] }, /"fd00::1" is no IPv4 address/],
  ['what is no address', { endpoints: [{ addresses: ['10.0.0.1/8'] }] }, /is no IPv4 address/],
  ['port 0', { ports: [{ port: 0 }] }, /port 0 is none/],
  ['port 65536', { ports: [{ port: 65_536 }] }, /port 65536 is none/],
  ['two ports of one name', { ports: [{ port: 80 }, { port: 81 }] }, /two ports have one name/],
  ['too many endpoints', { endpoints: many(1001) }, /more than 1000 endpoints/],
  [
    'too many addresses',
    { endpoints: [{ addresses: many(101).flatMap((each) => each.addresses) }] },
    /more than 100 addr/,
  ],
  ['too many ports', { ports: many(101).map((_, n) => ({ port: n + 1 })) }, /more than 100 ports/],
];
for (const [what, changes, reason] of REFUSED)
  test(`refused: ${what}`, () => {
    assert.throws(
      () => decode(changes),
      (error) => error instanceof BadValue && reason.test(error.message),
    );
  });

test('a frame that would become large is refused before it does, and one that asks for a large window as well', () => {
  const refused = (value: Buffer): void => {
    const before = process.memoryUsage.rss();
    assert.throws(() => decodeEndpointSlice('ns/web-abcde', value, EXPECTED), /not compressed by zstd, or larger than/);
    assert.ok(process.memoryUsage.rss() - before < 100 << 20);
  };
  const bomb = zstdCompressSync(Buffer.alloc(1 << 30));
  assert.ok(bomb.length < 100_000, `a gigabyte in ${bomb.length} bytes`);
  refused(bomb);
  // A frame header of RFC 8878 that asks for a window of 1 GiB.
  refused(Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00]));
  refused(sliceMessage(SLICE));
  refused(Buffer.alloc(0));
});

test('whatever bytes come, they are a slice of this key or are refused with a short reason', () => {
  const good = sliceMessage(SLICE);
  const damaged = fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, byte]) => {
    const copy = Buffer.from(good);
    copy[at] = byte;
    return copy;
  });
  const cut = fc.nat(good.length).map((length) => good.subarray(0, length));
  const noise = fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes));
  fc.assert(
    fc.property(fc.oneof(damaged, cut, noise), fc.boolean(), (message, packed) => {
      try {
        const value = packed ? zstdCompressSync(message) : message;
        const slice = decodeEndpointSlice('ns/web-abcde', value, EXPECTED);
        assert.deepEqual([slice.cluster, slice.namespace, slice.name], ['c', 'ns', 'web-abcde']);
      } catch (error) {
        assert.ok(error instanceof BadValue, String(error));
        assert.ok(error.message.length < 300);
      }
    }),
    { numRuns: 2000 },
  );
});

test('the configuration says what a cluster writes, and a way that nobody knows is refused as a whole', () => {
  const config = (mode?: unknown) =>
    decodeClusterConfig(Buffer.from(JSON.stringify({ id: 5, capabilities: { endpointSlicesExportMode: mode } })));
  const base = ['nodes', 'endpoints', 'identities'];
  assert.deepEqual(factKinds(config()), [...base, 'services']);
  assert.deepEqual(factKinds(config('')), [...base, 'services']);
  assert.deepEqual(factKinds(config('services-and-endpointslices')), [...base, 'services', 'slices']);
  assert.deepEqual(factKinds(config('endpointslices-only')), [...base, 'slices']);
  assert.throws(() => config('endpointslices-v2'), /endpointSlicesExportMode "endpointslices-v2" is not known/);
  assert.throws(() => config(3), /endpointSlicesExportMode is no string/);
  assert.ok(saysCached(Buffer.from('{"id":5,"capabilities":{"cached":true,"endpointSlicesExportMode":"x"}}')));
  for (const text of ['{}', '', '[]', '{"capabilities":7}', '{"capabilities":{"cached":"x"}}'])
    assert.ok(!saysCached(Buffer.from(text)), text);
});

test('a slice of more addresses than endpoints can have is refused, however small it is on its way', () => {
  const endpoint = (index: number) => ({
    addresses: Array.from({ length: 100 }, (_, each) => `10.1.${index % 250}.${each}`),
  });
  const value = sliceValue({ ...SLICE, endpoints: Array.from({ length: 1000 }, (_, index) => endpoint(index)) });
  assert.ok(value.length < 100_000, `${value.length}`);
  assert.throws(() => decodeEndpointSlice('ns/web-abcde', value, EXPECTED), /more than 5000 addresses/);
});
