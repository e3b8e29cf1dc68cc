import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatAddress, parseAddress } from '../../src/core/ip.ts';
import type { Node } from '../../src/kvstore/codec/node.ts';
import { Ipcache } from '../../src/mesh/ipcache.ts';
import { NodeAddresses } from '../../src/mesh/node-addresses.ts';
import { Origins } from '../../src/mesh/origin.ts';

const JOINED = { joined: true, max: 255 } as const;
const REMOTE = { joined: false, max: 255 } as const;

const ip = (text: string) => {
  const address = parseAddress(text);
  if (address === undefined) throw new Error(text);
  return address;
};

interface Told {
  readonly cluster?: string;
  readonly name: string;
  readonly addresses: readonly (readonly [type: string, ip: string])[];
  readonly health?: readonly string[];
  readonly ingress?: readonly string[];
  readonly identity?: number;
}

function node({ cluster = 'c', name, addresses, health = [], ingress = [], identity = 6 }: Told): Node {
  return {
    name,
    cluster,
    clusterId: 3,
    addresses: addresses.map(([type, text]) => ({ type, address: ip(text) })),
    ranges4: [],
    ranges6: [],
    healthAddresses: health.map(ip),
    ingressAddresses: ingress.map(ip),
    source: 'kvstore',
    labels: new Map(),
    nodeIdentity: identity,
    bootId: '',
  };
}

function setUp() {
  const origins = new Origins();
  const ipcache = new Ipcache(origins);
  const nodes = new NodeAddresses(ipcache, origins);
  const show = (text: string): string | undefined => {
    const found = ipcache.lookup(ip(text));
    if (found === undefined) return undefined;
    return `${found.identity} via ${found.tunnelEndpoint === undefined ? 'none' : formatAddress(found.tunnelEndpoint)}`;
  };
  return { origins, ipcache, nodes, show };
}

test('node addresses are remote nodes without a tunnel; router, health and ingress lie behind the tunnel', () => {
  const { nodes, show } = setUp();
  nodes.put(
    node({
      name: 'n',
      addresses: [
        ['CiliumInternalIP', '10.0.0.1'],
        ['ExternalIP', '198.51.100.1'],
        ['InternalIP', '172.16.0.1'],
        ['InternalIP', 'fd00::1'],
      ],
      health: ['10.0.0.2', 'fd01::2'],
      ingress: ['10.0.0.3'],
    }),
    REMOTE,
  );
  assert.equal(show('172.16.0.1'), '6 via none');
  assert.equal(show('198.51.100.1'), '6 via none');
  assert.equal(show('fd00::1'), '6 via none');
  assert.equal(show('10.0.0.1'), '6 via 172.16.0.1');
  assert.equal(show('10.0.0.2'), '4 via 172.16.0.1');
  assert.equal(show('fd01::2'), '4 via 172.16.0.1');
  assert.equal(show('10.0.0.3'), '8 via 172.16.0.1');
});

test('a node identity counts in the joined cluster only, within its block, which depends on the size of the mesh', () => {
  const { nodes, show } = setUp();
  const told = (name: string, address: string, identity: number): Node =>
    node({ name, addresses: [['InternalIP', address]], identity });
  nodes.put(told('workload', '172.16.0.1', 3 * 65_536 + 5), JOINED);
  nodes.put(told('foreign', '172.16.0.2', 4 * 65_536), JOINED);
  nodes.put(told('host', '172.16.0.3', 1), JOINED);
  nodes.put({ ...told('remote', '172.16.0.4', 3 * 65_536 + 5), cluster: 'r' }, REMOTE);
  nodes.put(told('small', '172.16.0.5', 3 * 32_768 + 5), { joined: true, max: 511 });
  nodes.put(told('big', '172.16.0.6', 3 * 65_536 + 5), { joined: true, max: 511 });
  assert.equal(show('172.16.0.1'), `${3 * 65_536 + 5} via none`);
  assert.equal(show('172.16.0.2'), '6 via none');
  assert.equal(show('172.16.0.3'), '6 via none');
  assert.equal(show('172.16.0.4'), '6 via none');
  assert.equal(show('172.16.0.5'), `${3 * 32_768 + 5} via none`);
  assert.equal(show('172.16.0.6'), '6 via none');
});

test('a node that changes keeps what it still names, without a gap, and loses the rest', () => {
  const { ipcache, nodes, show } = setUp();
  nodes.put(
    node({
      name: 'n',
      addresses: [
        ['InternalIP', '172.16.0.1'],
        ['ExternalIP', '198.51.100.1'],
      ],
    }),
    REMOTE,
  );
  const feed = ipcache.changed4.read(() => {});
  nodes.put(
    node({
      name: 'n',
      addresses: [
        ['InternalIP', '172.16.0.1'],
        ['ExternalIP', '198.51.100.2'],
      ],
    }),
    REMOTE,
  );
  assert.deepEqual([...feed.drain()].sort(), [ip('198.51.100.1').words[0], ip('198.51.100.2').words[0]].sort());
  assert.equal(show('198.51.100.1'), undefined);
  assert.equal(show('198.51.100.2'), '6 via none');
  nodes.remove('c', 'n');
  nodes.remove('c', 'n');
  assert.equal(ipcache.size, 0);
});

test('a cluster that becomes the joined one speaks with the strength of the joined one', () => {
  const { ipcache, nodes, origins } = setUp();
  const told = node({ name: 'n', addresses: [['InternalIP', '172.16.0.1']] });
  nodes.put(told, REMOTE);
  nodes.put(told, JOINED);
  assert.equal(ipcache.lookup(ip('172.16.0.1'))?.origin, origins.of('c', 'node'));
  assert.deepEqual(ipcache.lookup(ip('172.16.0.1'))?.others, []);
  nodes.remove('c', 'n');
  assert.equal(ipcache.size, 0);
});

test('another cluster cannot take over an address of a node of the joined one, by a node or by an address', () => {
  const { ipcache, nodes, origins, show } = setUp();
  const own = node({
    name: 'n',
    addresses: [
      ['InternalIP', '172.16.0.1'],
      ['CiliumInternalIP', '10.0.0.1'],
    ],
  });
  nodes.put(
    node({
      cluster: 'a',
      name: 'n',
      addresses: [
        ['InternalIP', '172.16.9.9'],
        ['CiliumInternalIP', '10.0.0.1'],
      ],
    }),
    REMOTE,
  );
  nodes.put(own, JOINED);
  ipcache.claim(origins.of('a', 'clustermesh'), 1, {
    address: ip('172.16.0.1'),
    bits: undefined,
    identity: 70_000,
    tunnelEndpoint: ip('172.16.9.9'),
  });
  assert.equal(show('172.16.0.1'), '6 via none');
  assert.equal(show('10.0.0.1'), '6 via 172.16.0.1');
  assert.equal(ipcache.conflicts(10).length, 2);
});

test('of several nodes that name one address the first name counts, whatever came when, and the next when it goes', () => {
  const names = ['a', 'b', 'c', 'd'] as const;
  const shared = ['10.0.0.1', '10.0.0.2'] as const;
  const step = fc.record({ name: fc.constantFrom(...names), named: fc.option(fc.subarray([...shared])) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const { ipcache, nodes, show } = setUp();
      const present = new Map<string, readonly string[]>();
      const own = (name: string): string => `172.16.0.${(names as readonly string[]).indexOf(name) + 1}`;
      for (const { name, named } of steps) {
        if (named === null) nodes.remove('c', name);
        else {
          const routers = named.map((text) => ['CiliumInternalIP', text] as const);
          nodes.put(node({ name, addresses: [['InternalIP', own(name)], ...routers] }), REMOTE);
        }
        if (named === null) present.delete(name);
        else present.set(name, named);
        for (const text of shared) {
          const first = [...present].filter(([, all]) => all.includes(text)).sort(([x], [y]) => (x < y ? -1 : 1))[0];
          assert.equal(show(text), first === undefined ? undefined : `6 via ${own(first[0])}`);
        }
      }
      const all = new Set([...present].flatMap(([name, named]) => [own(name), ...named]));
      assert.equal(ipcache.size, all.size);
    }),
  );
});

test('ten thousand nodes that name one address are taken and removed in no time', () => {
  const { ipcache, nodes } = setUp();
  const all = Array.from({ length: 10_000 }, (_, index) => `n${String(index).padStart(5, '0')}`);
  for (const name of all) nodes.put(node({ name, addresses: [['InternalIP', '172.16.0.1']] }), REMOTE);
  for (const name of all.toReversed()) nodes.remove('c', name);
  assert.equal(ipcache.size, 0);
});
