import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { OverlayRoutes, type RouteInputs } from '../../src/agent/overlay-routes.ts';
import { RouteIndex } from '../../src/agent/route-index.ts';
import { addressBits, contains, formatAddress, formatPrefix, type Prefix, prefixOf } from '../../src/core/ip.ts';
import type { Tables } from '../../src/mesh/tables.ts';
import { address, claim, emptyTables, nodeFact, prefix, putNode, removeNode } from './facts.ts';

const INPUTS: RouteInputs = {
  own: [address('192.0.2.10'), address('10.192.1.1'), address('2001:db8::10')],
  others: [address('192.0.2.1'), address('198.51.100.5')],
  ownRanges: [prefix('10.192.1.0/24')],
  families: [4, 6],
  joined: 'a',
  isSelf: ({ cluster, name }) => cluster === 'a' && name === 'my-vm',
};

function routesOf(tables: Tables, inputs: Partial<RouteInputs> = {}): { ranges: string[]; routes: OverlayRoutes } {
  const routes = new OverlayRoutes(tables);
  routes.refresh({ ...INPUTS, ...inputs });
  return { ranges: texts(routes), routes };
}

function texts(routes: OverlayRoutes): string[] {
  return [...routes.prefixRoutes()].map(({ prefix: range, via }) => `${formatPrefix(range)} ${formatAddress(via)}`);
}

/** The reason that the range was refused for; fails when it was routed. */
function refusalOf(range: string, inputs: Partial<RouteInputs> = {}): string {
  const tables = emptyTables();
  putNode(tables, nodeFact('b/evil', ['203.0.113.66'], [range]));
  putNode(tables, nodeFact('a/good', ['203.0.113.7', 'router:10.1.0.1'], ['10.1.0.0/24']));
  const { ranges, routes } = routesOf(tables, inputs);
  assert.deepEqual(ranges, ['10.1.0.0/24 203.0.113.7'], `${range} is routed`);
  assert.equal(routes.refused.length, 1);
  return routes.refused[0] ?? '';
}

test('ranges of nodes lead to them, and the reason is told for each that does not', () => {
  for (const [range, reason] of [
    ['0.0.0.0/0', /wider than \/8/],
    ['::/0', /wider than \/16/],
    ['128.0.0.0/1', /wider than \/8/],
    ['127.0.0.0/8', /no range of ordinary addresses/],
    ['224.0.0.0/8', /no range of ordinary addresses/],
    ['169.254.169.254/32', /no range of ordinary addresses/],
    ['fe80::/64', /no range of ordinary addresses/],
    ['ff02::/16', /no range of ordinary addresses/],
    ['192.0.2.0/24', /holds 192\.0\.2\.1/],
    ['192.0.2.10/32', /holds 192\.0\.2\.10/],
    ['2001:db8::/32', /holds 2001:db8::10/],
    ['198.51.100.0/28', /holds 198\.51\.100\.5/],
    ['203.0.113.64/26', /its own tunnel endpoint 203\.0\.113\.66/],
    ['203.0.113.0/26', /holds 203\.0\.113\.7/],
    ['10.192.1.128/25', /overlaps 10\.192\.1\.0\/24/],
    ['10.192.0.0/16', /overlaps 10\.192\.1\.0\/24/],
  ] as const)
    assert.match(refusalOf(range), reason, range);
});

test('a range that holds another node, or a node in the range of another, does not cut that node off', () => {
  const tables = emptyTables();
  putNode(tables, nodeFact('a/one', ['10.0.0.1'], ['10.1.0.0/16']));
  putNode(tables, nodeFact('a/two', ['10.1.2.3'], ['10.2.0.0/16']));
  const { ranges, routes } = routesOf(tables);
  assert.deepEqual(ranges, ['10.2.0.0/16 10.1.2.3']);
  assert.match(routes.refused[0] ?? '', /10\.1\.0\.0\/16 of a\/one: holds 10\.1\.2\.3/);
});

test('a router address lies in the range of its node and does not speak against it', () => {
  const tables = emptyTables();
  putNode(tables, nodeFact('a/one', ['203.0.113.7', 'router:10.1.0.9'], ['10.1.0.0/24']));
  assert.deepEqual(routesOf(tables).ranges, ['10.1.0.0/24 203.0.113.7']);
});

test('what this machine published of itself is no route', () => {
  const tables = emptyTables();
  putNode(tables, nodeFact('a/my-vm', ['192.0.2.10'], ['10.9.0.0/24']));
  const { ranges, routes } = routesOf(tables);
  assert.deepEqual([ranges, routes.refused], [[], []]);
});

test('of several owners of one range the joined cluster wins, then the first by name, whoever came last', () => {
  const hosts = { '0/first': '203.0.113.1', 'a/joined': '203.0.113.2', 'b/later': '203.0.113.3' };
  for (const order of [Object.entries(hosts), Object.entries(hosts).reverse()]) {
    const tables = emptyTables();
    for (const [owner, host] of order) putNode(tables, nodeFact(owner, [host], ['10.1.0.0/24']));
    const { ranges, routes } = routesOf(tables);
    assert.deepEqual(ranges, [`10.1.0.0/24 ${hosts['a/joined']}`]);
    assert.deepEqual(routes.refused, [
      '10.1.0.0/24 of 0/first: leads to a/joined, which announces it as well',
      '10.1.0.0/24 of b/later: leads to a/joined, which announces it as well',
    ]);
    removeNode(tables, 'a/joined');
    routes.refresh(INPUTS);
    assert.deepEqual(texts(routes), [`10.1.0.0/24 ${hosts['0/first']}`]);
  }
});

test('a single address is routed where no range leads to its node, and never where it must stay reachable', () => {
  const tables = emptyTables();
  putNode(tables, nodeFact('a/one', ['203.0.113.7'], ['10.1.0.0/24']));
  putNode(tables, nodeFact('a/two', ['203.0.113.8'], []));
  const { routes } = routesOf(tables);
  const routed = (text: string, host: string): string | undefined => {
    claim(tables, text, { id: 70_000, host });
    const { family, words } = address(text);
    const via = routes.hostRoute(family, words);
    return via && formatAddress(via);
  };
  assert.equal(routed('10.5.0.1', '203.0.113.7'), '203.0.113.7');
  assert.equal(routed('10.1.0.5', '203.0.113.7'), undefined, 'its range leads there');
  assert.equal(routed('10.1.0.6', '203.0.113.8'), '203.0.113.8', 'it moved to another node');
  assert.equal(routed('192.0.2.1', '203.0.113.7'), undefined, 'the gateway');
  assert.equal(routed('198.51.100.5', '203.0.113.7'), undefined, 'a store');
  assert.equal(routed('203.0.113.8', '203.0.113.7'), undefined, 'a node');
  assert.equal(routed('203.0.113.7', '203.0.113.7'), undefined, 'its own tunnel endpoint');
  assert.equal(routed('192.0.2.10', '203.0.113.7'), undefined, 'this machine');
  assert.equal(routed('10.192.1.77', '203.0.113.7'), undefined, 'of the range of this machine');
  assert.equal(routed('10.5.0.2', '192.0.2.10'), undefined, 'behind this machine');
  assert.equal(routed('169.254.169.254', '203.0.113.7'), undefined, 'the metadata of a cloud');
  assert.equal(routed('fe80::1', '203.0.113.7'), undefined);
  assert.equal(routed('2001:db8:5::1', '203.0.113.7'), '203.0.113.7');
  assert.deepEqual([...routes.hostRoutes()].map(({ prefix: range }) => formatPrefix(range)).sort(), [
    '10.1.0.6/32',
    '10.5.0.1/32',
    '2001:db8:5::1/128',
  ]);
});

test('a machine without IPv4 reaches nodes by their IPv6 addresses', () => {
  const tables = emptyTables();
  putNode(tables, nodeFact('a/both', ['203.0.113.7', '2001:db8::7'], ['2001:db8:1::/64']));
  claim(tables, '2001:db8:9::1', { id: 70_000, host: '203.0.113.7' });
  const { ranges, routes } = routesOf(tables, { families: [6] });
  assert.deepEqual(ranges, ['2001:db8:1::/64 2001:db8::7']);
  const via = routes.hostRoute(6, address('2001:db8:9::1').words);
  assert.equal(via && formatAddress(via), '2001:db8::7');
  assert.deepEqual(routesOf(tables).ranges, ['2001:db8:1::/64 203.0.113.7']);
});

test('a refresh tells of routes that changed, and of nothing else', () => {
  const tables = emptyTables();
  putNode(tables, nodeFact('a/one', ['203.0.113.7'], ['10.1.0.0/24']));
  const routes = new OverlayRoutes(tables);
  assert.equal(routes.refresh(INPUTS), true);
  assert.equal(routes.refresh(INPUTS), false);
  putNode(tables, nodeFact('a/one', ['203.0.113.7'], ['10.2.0.0/24']));
  assert.equal(routes.refresh(INPUTS), true);
  assert.equal(routes.refresh({ ...INPUTS, others: [...INPUTS.others, address('10.2.0.3')] }), true);
  assert.deepEqual(texts(routes), []);
  assert.equal(routes.refresh({ ...INPUTS, families: [4] }), true);
});

const words4 = fc.integer({ min: 0, max: 0xffff_ffff }).map((word) => [(0x0a00_0000 | (word & 0x3f)) >>> 0]);
const words6 = fc.integer({ min: 0, max: 0xff }).map((word) => [0x2001_0db8, 0, 0, word]);
const anyAddress = fc.oneof(
  words4.map((words) => ({ family: 4 as const, words })),
  words6.map((words) => ({ family: 6 as const, words })),
);
const anyPrefix = fc
  .tuple(anyAddress, fc.integer({ min: 0, max: 128 }))
  .map(([each, bits]) => prefixOf(each, Math.min(bits, addressBits(each.family))));

test('the index finds what a walk through all prefixes finds', () => {
  const holds = (outer: Prefix, each: { family: 4 | 6; words: readonly number[] }): boolean =>
    contains(outer, prefixOf(each, addressBits(each.family)));
  fc.assert(
    fc.property(fc.array(anyPrefix, { maxLength: 40 }), fc.array(anyAddress, { maxLength: 10 }), (all, addresses) => {
      const index = new RouteIndex(all.map((each) => ({ prefix: each })));
      for (const each of addresses) {
        const holding = all.filter((outer) => holds(outer, each)).sort((a, b) => b.bits - a.bits);
        const found = index.covering(each);
        assert.equal(found && formatPrefix(found.prefix), holding[0] && formatPrefix(holding[0]));
        const holders = [...index.holders([each])].map((holder) => formatPrefix(holder.prefix));
        assert.deepEqual(holders, [...new Set(holding.map(formatPrefix))]);
      }
    }),
    { numRuns: 300 },
  );
});

test('no route ever holds an address that must stay reachable, whatever nodes announce', () => {
  const node = fc.tuple(fc.constantFrom('a', 'b', 'c'), anyAddress, fc.array(anyPrefix, { maxLength: 3 }));
  fc.assert(
    fc.property(fc.array(node, { maxLength: 12 }), fc.array(anyAddress, { maxLength: 4 }), (nodes, others) => {
      const tables = emptyTables();
      for (const [index, [cluster, via, ranges]] of nodes.entries())
        putNode(tables, nodeFact(`${cluster}/n${index}`, [formatAddress(via)], ranges.map(formatPrefix)));
      const routes = new OverlayRoutes(tables);
      routes.refresh({ ...INPUTS, others });
      const guarded = [...INPUTS.own, ...others, ...nodes.map(([, via]) => via)];
      for (const { prefix: range } of routes.prefixRoutes()) {
        for (const each of guarded)
          assert.ok(!contains(range, prefixOf(each, addressBits(each.family))), `${formatPrefix(range)}`);
      }
      const announced = new Set(nodes.flatMap(([, , ranges]) => ranges.map(formatPrefix)));
      const seen = new Set([...texts(routes), ...routes.refused].map((text) => text.split(' ')[0]));
      assert.deepEqual(seen, announced, 'a range is routed or refused');
    }),
    { numRuns: 200 },
  );
});

test('ten thousand nodes are worked out without walking through pairs of them', () => {
  const tables = emptyTables();
  const count = 10_000;
  for (let i = 0; i < count; i++) {
    const ranges = [`10.${i >> 8}.${i & 255}.0/24`, `2001:db8:${(i + 1).toString(16)}::/64`];
    putNode(tables, nodeFact(`a/n${i}`, [`172.16.${i >> 8}.${i & 255}`], ranges));
  }
  // 10.192.1.0/24 is the machine's own.
  const routes = new OverlayRoutes(tables);
  const before = process.cpuUsage();
  routes.refresh(INPUTS);
  const { user, system } = process.cpuUsage(before);
  assert.equal(routes.prefixRoutes().length, 2 * count);
  // Pairs would be two hundred million.
  assert.ok(user + system < 2_000_000, `${(user + system) / 1000} ms of processor time`);
});

test('the range of this machine, as its hub publishes it for others, is no reason to complain', () => {
  const tables = emptyTables();
  claim(tables, '10.192.1.0/24', { id: 70_000, host: '192.0.2.10' });
  const { ranges, routes } = routesOf(tables);
  assert.deepEqual([ranges, routes.refused], [[], []]);
  claim(tables, '10.192.1.0/25', { id: 70_000, host: '203.0.113.66' });
  assert.match(routesOf(tables).routes.refused[0] ?? '', /10\.192\.1\.0\/25 .*overlaps 10\.192\.1\.0\/24/);
});
