import assert from 'node:assert/strict';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { parseAddress, parseLink, readLinkState } from '../../src/host/links.ts';
import { isDefaultRoute, parseDefaultRoute } from '../../src/host/routes.ts';
import { Namespace, until } from '../lab/namespace.ts';
import type { LinkFacts } from './links-worker.ts';

/** A namespace with a watcher in it; `states` are what the watcher told, the last one at the end. */
async function watched(run: (lab: { ns: Namespace; states: LinkFacts[]; last: () => LinkFacts }) => Promise<void>) {
  const ns = new Namespace('links');
  try {
    ns.run('ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth1');
    const child = ns.start(process.execPath, [join(import.meta.dirname, 'links-worker.ts')]);
    const states: LinkFacts[] = [];
    if (child.stdout === null) throw new Error('no pipe');
    createInterface({ input: child.stdout }).on('line', (line) => states.push(JSON.parse(line)));
    child.stderr?.pipe(process.stderr);
    await until('the first state', () => states.length > 0);
    await run({ ns, states, last: () => states.at(-1) as LinkFacts });
  } finally {
    await ns.close();
  }
}

test('devices are told with kind, state, master and parent', () =>
  watched(async ({ ns, last }) => {
    ns.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
    ns.run('ip', 'link', 'set', 'eth1', 'master', 'br0', 'up');
    ns.run('ip', 'link', 'set', 'eth0', 'up');
    ns.run('ip', 'link', 'add', 'late', 'type', 'veth', 'peer', 'name', 'later');
    await until('the last device is told', () => last().links.late !== undefined && last().links.eth0?.up === true);
    const { links } = last();
    assert.deepEqual(links.late, { kind: 'veth', up: false, mtu: 1500, parent: 'later' });
    assert.equal(links.eth1?.master, 'br0');
    assert.deepEqual([links.br0?.kind, links.lo?.kind], ['bridge', '']);
    ns.run('ip', 'link', 'set', 'br0', 'mtu', '1300');
    await until('the new size is told', () => last().links.br0?.mtu === 1300);
    ns.run('ip', 'link', 'delete', 'late');
    await until('its end is told', () => last().links.late === undefined && last().links.later === undefined);
  }));

test('addresses are told with what makes them worse than others', () =>
  watched(async ({ ns, last }) => {
    ns.run('ip', 'link', 'set', 'eth0', 'up');
    const add = (...args: string[]): string => ns.run('ip', 'address', 'add', ...args);
    add('192.0.2.1/24', 'dev', 'eth0');
    add('192.0.2.2/24', 'dev', 'eth0');
    add('2001:db8::1/64', 'dev', 'eth0', 'nodad', 'preferred_lft', '0');
    add('2001:db8::2/64', 'dev', 'eth0');
    add('10.0.0.1', 'peer', '10.0.0.2', 'dev', 'eth0');
    await until('all are told', () => last().addresses['10.0.0.1/32'] !== undefined);
    const { addresses } = last();
    assert.deepEqual(addresses['192.0.2.1/24'], { device: 'eth0', flags: [] });
    assert.deepEqual(addresses['192.0.2.2/24'], { device: 'eth0', flags: ['secondary'] });
    assert.deepEqual(addresses['2001:db8::1/64'], { device: 'eth0', flags: ['deprecated'] });
    // The peer is down, so duplicate detection cannot end.
    assert.deepEqual(addresses['2001:db8::2/64'], { device: 'eth0', flags: ['tentative'] });
    assert.equal(addresses['10.0.0.2/32'], undefined, 'the address of the peer is not ours');
  }));

test('default routes of the main table are told, those of several next hops one by one', () =>
  watched(async ({ ns, last }) => {
    for (const device of ['eth0', 'eth1']) ns.run('ip', 'link', 'set', device, 'up');
    ns.run('ip', 'address', 'add', '192.0.2.1/24', 'dev', 'eth0');
    ns.run('ip', 'address', 'add', '198.51.100.1/24', 'dev', 'eth1');
    ns.run('ip', '-6', 'address', 'add', '2001:db8::1/64', 'dev', 'eth0', 'nodad');
    const route = (text: string): string => ns.run('ip', ...text.split(' '));
    route('route add default via 192.0.2.254 src 192.0.2.1 metric 100');
    route('route add default nexthop via 192.0.2.253 dev eth0 nexthop via 198.51.100.254 dev eth1');
    route('route add default via 192.0.2.252 table 99');
    route('route add 203.0.113.0/24 via 192.0.2.254');
    route('-6 route add default via 2001:db8::fe metric 7');
    await until('all are told', () => last().routes.some(({ family }) => family === 6));
    assert.deepEqual(last().routes, [
      { family: 4, device: 'eth0', gateway: '192.0.2.253', metric: 0 },
      { family: 4, device: 'eth1', gateway: '198.51.100.254', metric: 0 },
      { family: 4, device: 'eth0', gateway: '192.0.2.254', source: '192.0.2.1', metric: 100 },
      { family: 6, device: 'eth0', gateway: '2001:db8::fe', metric: 7 },
    ]);
    ns.run('ip', 'link', 'set', 'eth0', 'down');
    // The kernel drops routes of IPv4 without a word when their device goes down.
    await until('their end is told', () => last().routes.every(({ device }) => device !== 'eth0'));
  }));

test('many changes at once are told few times, and the last state is the true one', () =>
  watched(async ({ ns, states, last }) => {
    const before = states.length;
    const lines = Array.from({ length: 500 }, (_, index) => `address add 10.0.${index >> 8}.${index & 255}/32 dev lo`);
    const routes = Array.from({ length: 5000 }, (_, i) => `route add 10.9.${i >> 8}.${i & 255}/32 dev lo`);
    ns.feed([...lines, ...routes].join('\n'), 'ip', '-batch', '-');
    await until('the last address is told', () => last().addresses['10.0.1.243/32'] !== undefined);
    assert.equal(Object.keys(last().addresses).filter((text) => text.startsWith('10.0.')).length, 500);
    assert.ok(states.length - before < 100, `${states.length - before} calls`);
  }));

test('messages that make no sense are left out, and nothing throws', () => {
  let seed = 7;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  for (let round = 0; round < 20_000; round++) {
    const body = Buffer.from(Array.from({ length: random(80) }, () => (random(3) === 0 ? random(24) : random(256))));
    // Often enough, heads that look right.
    if (body.length > 8 && random(2) === 0) body[0] = [0, 2, 10][random(3)] as number;
    parseLink(body);
    parseAddress(body);
    isDefaultRoute(body);
    for (const { link, metric } of parseDefaultRoute(body)) assert.ok(Number.isInteger(link) && metric >= 0);
  }
  assert.equal(parseLink(Buffer.alloc(16)), undefined);
  assert.equal(parseAddress(Buffer.alloc(0)), undefined);
});

test('the state of this machine can be read', async () => {
  const state = await readLinkState();
  const loopback = state.links.find(({ name }) => name === 'lo');
  assert.equal(loopback?.loopback, true);
});
