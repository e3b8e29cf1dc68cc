import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Address, parseAddress } from '../../src/core/ip.ts';
import { classifyDevices, type DeviceOptions, externalDevices } from '../../src/datapath/devices.ts';
import type { Link, LinkState } from '../../src/host/links.ts';

const ETHERNET = 1;
const NONE = 65534;

/** `kind` of a device, with what stands out; `master` and `parent` by name. */
interface Sketch {
  readonly kind?: string;
  readonly hardware?: number;
  readonly down?: boolean;
  readonly master?: string;
  readonly parent?: string;
  readonly address?: string;
  readonly route?: boolean;
}

function address(text: string): Address {
  const found = parseAddress(text);
  assert.ok(found !== undefined, text);
  return found;
}

function stateOf(sketches: Record<string, Sketch>): LinkState {
  const names = ['lo', ...Object.keys(sketches)];
  const index = (name: string | undefined): number | undefined =>
    name === undefined ? undefined : names.indexOf(name) + 1;
  const links: Link[] = names.map((name) => {
    const sketch = sketches[name] ?? {};
    return {
      index: index(name) as number,
      name,
      kind: sketch.kind ?? '',
      hardware: name === 'lo' ? 772 : (sketch.hardware ?? ETHERNET),
      up: sketch.down !== true,
      loopback: name === 'lo',
      mtu: 1500,
      master: index(sketch.master),
      parent: index(sketch.parent),
      alias: '',
      vxlan: undefined,
    };
  });
  const entries = Object.entries(sketches);
  return {
    links,
    addresses: entries.flatMap(([name, sketch]) => {
      if (sketch.address === undefined) return [];
      const flags = { tentative: false, deprecated: false, temporary: false, secondary: false };
      return [{ link: index(name) as number, address: address(sketch.address), bits: 24, scope: 0, ...flags }];
    }),
    defaultRoutes: entries
      .filter(([, { route }]) => route === true)
      .map(([name]) => ({
        family: 4,
        link: index(name) as number,
        gateway: undefined,
        source: undefined,
        metric: 0,
      })),
  };
}

const eth0: Sketch = { address: '192.0.2.1', route: true };

/** Devices of a machine, and which of them are external. */
const MACHINES: readonly (readonly [what: string, devices: Record<string, Sketch>, external: readonly string[]])[] = [
  ['plain server', { eth0, eth1: {}, wlan0: { down: true } }, ['eth0', 'eth1', 'wlan0']],
  [
    'Docker',
    {
      eth0,
      docker0: { kind: 'bridge', address: '172.17.0.1' },
      veth1: { kind: 'veth', master: 'docker0' },
      'br-1f2e': { kind: 'bridge', down: true },
    },
    ['eth0'],
  ],
  [
    'libvirt',
    {
      eth0,
      virbr0: { kind: 'bridge', address: '192.168.122.1' },
      'virbr0-nic': { kind: 'tun', master: 'virbr0', down: true },
      vnet0: { kind: 'tun', master: 'virbr0' },
    },
    ['eth0'],
  ],
  ['tap of a virtual machine without a bridge', { eth0, tap0: { kind: 'tun', hardware: ETHERNET } }, ['eth0']],
  [
    'bridge over the network card',
    { eth0: { master: 'br0' }, br0: { kind: 'bridge', ...eth0 }, vnet0: { kind: 'tun', master: 'br0' } },
    ['br0'],
  ],
  [
    'bridge over the network card, host without an address there',
    { eth0, eth1: { master: 'br1' }, br1: { kind: 'bridge' }, vnet0: { kind: 'tun', master: 'br1' } },
    ['br1', 'eth0'],
  ],
  [
    'bridge over a VLAN, as Proxmox makes it',
    {
      eno1: { master: 'vmbr0' },
      vmbr0: { kind: 'bridge', ...eth0 },
      'eno1.100': { kind: 'vlan', parent: 'eno1', master: 'vmbr1' },
      vmbr1: { kind: 'bridge' },
      fwbr100i0: { kind: 'bridge' },
      tap100i0: { kind: 'tun', master: 'fwbr100i0' },
    },
    ['vmbr0', 'vmbr1'],
  ],
  [
    'bond with VLANs',
    {
      eth0: { master: 'bond0' },
      eth1: { master: 'bond0' },
      bond0: { kind: 'bond' },
      'bond0.100': { kind: 'vlan', parent: 'bond0', ...eth0 },
      'bond0.200': { kind: 'vlan', parent: 'bond0' },
    },
    ['bond0', 'bond0.100', 'bond0.200'],
  ],
  [
    'bridge over a bond',
    { eth0: { master: 'bond0' }, bond0: { kind: 'bond', master: 'br0' }, br0: { kind: 'bridge', ...eth0 } },
    ['br0'],
  ],
  [
    'VLAN on a bridge of containers',
    { eth0, br0: { kind: 'bridge' }, 'br0.5': { kind: 'vlan', parent: 'br0' } },
    ['eth0'],
  ],
  ['VLAN whose device is elsewhere', { eth0, v5: { kind: 'vlan' } }, ['eth0', 'v5']],
  ['Tailscale', { eth0, tailscale0: { kind: 'tun', hardware: NONE } }, ['eth0', 'tailscale0']],
  ['WireGuard', { eth0, wg0: { kind: 'wireguard', hardware: NONE } }, ['eth0', 'wg0']],
  ['OpenVPN with a tap that has the default route', { eth0, tap0: { kind: 'tun', route: true } }, ['eth0', 'tap0']],
  ['PPP alone', { ppp0: { kind: 'ppp', hardware: 512, ...eth0 } }, ['ppp0']],
  [
    'tunnels, and those that the kernel makes by itself',
    {
      eth0,
      tun6: { kind: 'sit', hardware: 776 },
      sit0: { kind: 'sit', down: true },
      tunl0: { kind: 'ipip', down: true },
    },
    ['eth0', 'tun6'],
  ],
  ['a device of a kind that we do not know', { eth0, x0: { kind: 'quux' } }, ['eth0', 'x0']],
  ['container: its eth0 is a veth', { eth0: { kind: 'veth', ...eth0 }, veth2: { kind: 'veth' } }, ['eth0']],
  [
    'container without a default route',
    { eth0: { kind: 'veth', address: '10.0.0.7' }, veth2: { kind: 'veth', address: '10.0.0.8' } },
    ['eth0'],
  ],
  ['virtual machine on macvtap', { eth0, macvtap0: { kind: 'macvtap', parent: 'eth0' } }, ['eth0']],
  ['host on macvlan', { eth0: {}, mac0: { kind: 'macvlan', parent: 'eth0', ...eth0 } }, ['eth0', 'mac0']],
  ['dummy with a service address', { eth0, dummy0: { kind: 'dummy', address: '10.9.9.9' } }, ['eth0']],
  [
    'dummy with the own address',
    { eth0: { route: true }, dummy0: { kind: 'dummy', address: '10.0.0.7' } },
    ['dummy0', 'eth0'],
  ],
  ['VRF: its members are judged themselves', { eth0, eth1: { master: 'red' }, red: { kind: 'vrf' } }, ['eth0', 'eth1']],
  [
    'Open vSwitch',
    {
      'ovs-system': { kind: 'openvswitch', down: true },
      eth0: { master: 'ovs-system' },
      'br-ex': { kind: 'openvswitch', ...eth0 },
      'br-int': { kind: 'openvswitch' },
    },
    ['br-ex'],
  ],
  ['overlay of somebody else', { eth0, 'flannel.1': { kind: 'vxlan' } }, ['eth0', 'flannel.1']],
  ['our overlay', { eth0, mesh_vxlan: { kind: 'vxlan', address: '10.0.0.7', route: true } }, ['eth0']],
  [
    'devices in a circle',
    {
      eth0,
      a: { kind: 'vlan', parent: 'b' },
      b: { kind: 'macvlan', parent: 'a' },
      br: { kind: 'bridge', master: 'br' },
    },
    ['a', 'b', 'eth0'],
  ],
];

const OPTIONS: DeviceOptions = {
  devices: 'auto',
  overlayDevice: 'mesh_vxlan',
  nodeAddresses: [address('192.0.2.1'), address('10.0.0.7')],
};

for (const [what, devices, external] of MACHINES) {
  test(`external devices: ${what}`, () => {
    const roles = classifyDevices(stateOf(devices), OPTIONS);
    assert.deepEqual(
      externalDevices(roles),
      external,
      roles.map(({ name, role, reason }) => `${name}: ${role}, ${reason}`).join('\n'),
    );
    assert.equal(roles.length, Object.keys(devices).length + 1);
  });
}

test('loopback and overlay have their own roles, and every role has its reason', () => {
  const roles = classifyDevices(stateOf({ eth0, mesh_vxlan: { kind: 'vxlan' } }), OPTIONS);
  assert.deepEqual(
    roles.map(({ name, role, kind }) => [name, role, kind]),
    [
      ['lo', 'loopback', 'loopback'],
      ['eth0', 'external', 'physical'],
      ['mesh_vxlan', 'overlay', 'vxlan'],
    ],
  );
  assert.ok(roles.every(({ reason }) => reason.length > 0));
  assert.deepEqual(roles[1]?.addresses, ['192.0.2.1/24']);
});

test('configured devices are the external ones, and one that does not exist is kept and reported', () => {
  const devices = ['eth1', 'later0', 'later0', 'lo', 'mesh_vxlan'];
  const roles = classifyDevices(stateOf({ eth0, eth1: { kind: 'veth' }, mesh_vxlan: { kind: 'vxlan' } }), {
    ...OPTIONS,
    devices,
  });
  assert.deepEqual(externalDevices(roles), ['eth1', 'later0']);
  assert.deepEqual(
    roles.map(({ name, role }) => `${name} ${role}`),
    ['lo loopback', 'eth0 internal', 'eth1 external', 'mesh_vxlan overlay', 'later0 external'],
  );
  const later = roles.at(-1);
  assert.deepEqual([later?.index, later?.kind, later?.up], [0, 'missing', false]);
});

test('a container stays judged while its default route is renewed', () => {
  const container = (sketch: Sketch): LinkState =>
    stateOf({ eth0: { kind: 'veth', ...sketch }, eth1: { kind: 'veth' } });
  const first = classifyDevices(container({ address: '10.3.3.3', route: true }), OPTIONS);
  const second = classifyDevices(container({ address: '10.3.3.3' }), { ...OPTIONS, previous: first });
  const third = classifyDevices(container({ address: '10.3.3.3' }), { ...OPTIONS, previous: second });
  assert.deepEqual([first, second, third].map(externalDevices), [['eth0'], ['eth0'], ['eth0']]);
  const gone = classifyDevices(container({}), { ...OPTIONS, previous: third });
  assert.deepEqual(externalDevices(gone), []);
  assert.deepEqual(externalDevices(classifyDevices(container({ address: '10.3.3.3' }), OPTIONS)), []);
});
