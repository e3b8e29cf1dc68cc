import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Address, type Family, formatAddress, parseAddress } from '../../src/core/ip.ts';
import { type OwnAddressOptions, ownAddress } from '../../src/datapath/own-address.ts';
import type { Link, LinkAddress, LinkState } from '../../src/host/links.ts';

type Flag = 'tentative' | 'deprecated' | 'temporary' | 'secondary' | 'link' | 'host';

function address(text: string): Address {
  const found = parseAddress(text);
  assert.ok(found !== undefined, text);
  return found;
}

/** Devices are numbered in the order of their names; a name with a `-` before it is down. */
function stateOf(sketch: {
  devices: readonly string[];
  addresses: readonly (readonly [device: string, address: string, ...flags: Flag[]])[];
  routes?: readonly { device: string; family?: Family; metric?: number; source?: string }[];
}): LinkState {
  const names = ['lo', ...sketch.devices.map((name) => name.replace(/^-/, ''))];
  const index = (name: string): number => names.indexOf(name) + 1;
  return {
    links: names.map(
      (name): Link => ({
        index: index(name),
        name,
        kind: '',
        hardware: 1,
        up: !sketch.devices.includes(`-${name}`),
        loopback: name === 'lo',
        mtu: 1500,
        master: undefined,
        parent: undefined,
        alias: '',
        vxlan: undefined,
      }),
    ),
    addresses: sketch.addresses.map(
      ([device, text, ...flags]): LinkAddress => ({
        link: index(device),
        address: address(text),
        bits: 24,
        scope: flags.includes('link') ? 253 : flags.includes('host') ? 254 : 0,
        tentative: flags.includes('tentative'),
        deprecated: flags.includes('deprecated'),
        temporary: flags.includes('temporary'),
        secondary: flags.includes('secondary'),
      }),
    ),
    defaultRoutes: (sketch.routes ?? []).map(({ device, family, metric, source }) => ({
      family: family ?? 4,
      link: index(device),
      gateway: undefined,
      source: source === undefined ? undefined : address(source),
      metric: metric ?? 0,
    })),
  };
}

function own(state: LinkState, options: Partial<OwnAddressOptions> = {}): string {
  const found = ownAddress(state, { family: 4, overlayDevice: 'mesh_vxlan', ...options });
  assert.ok(found.reason.length > 0);
  return found.address === undefined ? found.reason : `${formatAddress(found.address)} on ${found.device ?? 'nothing'}`;
}

const TWO: Parameters<typeof stateOf>[0] = {
  devices: ['eth0', 'eth1'],
  addresses: [
    ['lo', '127.0.0.1', 'host'],
    ['eth0', '192.0.2.1'],
    ['eth0', '192.0.2.2', 'secondary'],
    ['eth1', '198.51.100.1'],
  ],
};

test('the address is that of the most preferred default route', () => {
  const routes = [
    { device: 'eth0', metric: 200 },
    { device: 'eth1', metric: 100 },
  ];
  assert.equal(own(stateOf({ ...TWO, routes })), '198.51.100.1 on eth1');
  assert.equal(own(stateOf({ ...TWO, routes: [{ device: 'eth0' }] })), '192.0.2.1 on eth0');
});

test('the source that the default route asks for counts more than the order of addresses', () => {
  assert.equal(own(stateOf({ ...TWO, routes: [{ device: 'eth0', source: '192.0.2.2' }] })), '192.0.2.2 on eth0');
  assert.equal(own(stateOf({ ...TWO, routes: [{ device: 'eth0', source: '198.51.100.1' }] })), '198.51.100.1 on eth1');
  // A source that no device carries (any more) is none.
  assert.equal(own(stateOf({ ...TWO, routes: [{ device: 'eth0', source: '203.0.113.9' }] })), '192.0.2.1 on eth0');
});

test('a route through a device that is down, or through the overlay, does not count', () => {
  const state = stateOf({
    devices: ['-eth0', 'eth1', 'mesh_vxlan'],
    addresses: [
      ['eth0', '192.0.2.1'],
      ['eth1', '198.51.100.1'],
      ['mesh_vxlan', '10.99.0.1'],
    ],
    routes: [{ device: 'mesh_vxlan' }, { device: 'eth0', metric: 1 }, { device: 'eth1', metric: 2 }],
  });
  assert.equal(own(state), '198.51.100.1 on eth1');
});

test('of IPv6 addresses the lasting global one is taken', () => {
  const addresses: Parameters<typeof stateOf>[0]['addresses'] = [
    ['eth0', 'fe80::1', 'link'],
    ['eth0', '2001:db8::a', 'temporary'],
    ['eth0', '2001:db8::b', 'deprecated'],
    ['eth0', 'fd00::1'],
    ['eth0', '2001:db8::c', 'tentative'],
    ['eth0', '2001:db8::d'],
  ];
  const take = (count: number): string =>
    own(stateOf({ devices: ['eth0'], addresses: addresses.slice(0, count), routes: [{ device: 'eth0', family: 6 }] }), {
      family: 6,
    });
  assert.equal(take(6), '2001:db8::d on eth0');
  assert.equal(take(5), 'fd00::1 on eth0');
  assert.equal(take(3), '2001:db8::a on eth0');
  assert.match(take(1), /has no usable IPv6 address/);
});

test('an unnumbered device lends from the loopback', () => {
  const state = stateOf({
    devices: ['eth0'],
    addresses: [
      ['lo', '127.0.0.1', 'host'],
      ['lo', '203.0.113.1'],
    ],
    routes: [{ device: 'eth0' }],
  });
  assert.equal(own(state), '203.0.113.1 on lo');
});

test('without a default route the only device with an address is taken, and several are named', () => {
  assert.equal(own(stateOf({ devices: ['eth0', 'eth1'], addresses: [['eth1', '10.0.0.1']] })), '10.0.0.1 on eth1');
  assert.match(own(stateOf(TWO)), /no default route of IPv4, and several devices have an address: eth0, eth1/);
  assert.match(own(stateOf({ devices: ['eth0'], addresses: [] })), /no default route and no IPv4 address/);
});

test('a configured address is taken as it is, and it is told when no device carries it', () => {
  const state = stateOf({ ...TWO, routes: [{ device: 'eth0' }] });
  assert.equal(own(state, { configured: address('198.51.100.1') }), '198.51.100.1 on eth1');
  assert.equal(own(state, { configured: address('203.0.113.1') }), '203.0.113.1 on nothing');
});
