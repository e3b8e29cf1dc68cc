import { type Address, formatAddress } from '../core/ip.ts';
import type { Link, LinkState } from '../host/links.ts';

/** What a device is to the policy. The fields are those of `DeviceRecord` in the local API. */
export interface DeviceRole {
  readonly name: string;
  /** 0 for a configured device that does not exist (yet). */
  readonly index: number;
  readonly role: 'external' | 'internal' | 'overlay' | 'loopback';
  /** Kind of the kernel (`bridge`, `veth`, ...), `physical` for none, `missing` for a device that does not exist. */
  readonly kind: string;
  readonly up: boolean;
  readonly mtu: number;
  readonly addresses: readonly string[];
  /** Why it has this role. */
  readonly reason: string;
}

export interface DeviceOptions {
  /** Names of the external devices, or `auto` to find them. */
  readonly devices: 'auto' | readonly string[];
  readonly overlayDevice: string;
  /** The machine's own addresses: a device that carries one is external. */
  readonly nodeAddresses?: readonly Address[];
  /**
   * The roles before. A device that was external for its default route or the own address stays so while it is up and has
   * an address: otherwise the firewall would open for a moment when a DHCP client or a routing daemon renews its route.
   */
  readonly previous?: readonly DeviceRole[];
}

// A physical device, bond or tunnel is one way out of the machine, even while it is down: it may come up any moment.
const BORDER_KINDS: ReadonlyMap<string, string> = new Map([
  ['', 'physical device'],
  ['bond', 'bond'],
  ['team', 'team'],
  ['wireguard', 'WireGuard tunnel'],
]);
// These stay inside the machine: local containers, virtual machines, and devices that carry nothing.
const INNER_KINDS: ReadonlySet<string> = new Set([
  'veth',
  'netkit',
  'dummy',
  'macvtap',
  'ipvtap',
  'ifb',
  'nlmon',
  'vcan',
  'vxcan',
  'can',
  'vrf',
  'openvswitch',
  'ovs-system',
]);
/** A device of one of these is seen by the packet filter as its master. */
const SWITCHING_MASTERS: ReadonlySet<string> = new Set(['bridge', 'bond', 'team', 'openvswitch', 'hsr']);
/** A device of one of these is as external as the device below. */
const STACKED_KINDS: ReadonlySet<string> = new Set(['vlan', 'macvlan', 'ipvlan', 'macsec']);
const ARPHRD_ETHER = 1;
const ROUTED = 'has a default route';
const CARRIES = 'carries the address of this machine';
const KEPT = 'had a default route or the own address before';

/**
 * The role of every device, and of every configured one that does not exist. Policy is judged on external devices: those
 * that lead out of the machine. What is in doubt is external, so that nothing passes unjudged.
 */
export function classifyDevices(state: LinkState, options: DeviceOptions): DeviceRole[] {
  const addresses = addressesByLink(state);
  const judge = options.devices === 'auto' ? new Classifier(state, options) : undefined;
  const configured = options.devices === 'auto' ? [] : options.devices;
  const roles = state.links.map((link): DeviceRole => {
    const found = fixedRole(link, options) ?? judge?.role(link) ?? configuredRole(link, configured);
    return {
      name: link.name,
      index: link.index,
      role: found[0],
      kind: link.kind === '' ? (link.loopback ? 'loopback' : 'physical') : link.kind,
      up: link.up,
      mtu: link.mtu,
      addresses: addresses.get(link.index) ?? [],
      reason: found[1],
    };
  });
  const known = new Set(state.links.map(({ name }) => name));
  for (const name of new Set(configured)) {
    if (known.has(name)) continue;
    const reason = 'configured, but there is no such device yet';
    roles.push({ name, index: 0, role: 'external', kind: 'missing', up: false, mtu: 0, addresses: [], reason });
  }
  return roles;
}

/** The names for `Border.devices`, sorted. */
export function externalDevices(roles: readonly DeviceRole[]): string[] {
  return roles
    .filter(({ role }) => role === 'external')
    .map(({ name }) => name)
    .sort();
}

type Verdict = readonly [role: DeviceRole['role'], reason: string];

function fixedRole(link: Link, options: DeviceOptions): Verdict | undefined {
  if (link.loopback) return ['loopback', 'loopback'];
  if (link.name === options.overlayDevice) return ['overlay', 'overlay of this agent'];
  return undefined;
}

function configuredRole(link: Link, configured: readonly string[]): Verdict {
  return configured.includes(link.name) ? ['external', 'configured'] : ['internal', 'not among the configured devices'];
}

function addressesByLink(state: LinkState): Map<number, string[]> {
  const result = new Map<number, string[]>();
  for (const { link, address, bits } of state.addresses) {
    const text = `${formatAddress(address)}/${bits}`;
    const list = result.get(link);
    if (list === undefined) result.set(link, [text]);
    else list.push(text);
  }
  return result;
}

class Classifier {
  readonly #links: ReadonlyMap<number, Link>;
  readonly #ports = new Map<number, Link[]>();
  readonly #routed: ReadonlySet<number>;
  readonly #node: ReadonlySet<number>;
  readonly #natures = new Map<number, Verdict>();
  readonly #before: ReadonlySet<number>;

  constructor(state: LinkState, options: DeviceOptions) {
    this.#links = new Map(state.links.map((link) => [link.index, link]));
    for (const link of state.links) {
      if (link.master === undefined) continue;
      const ports = this.#ports.get(link.master);
      if (ports === undefined) this.#ports.set(link.master, [link]);
      else ports.push(link);
    }
    const overlay = state.links.find(({ name }) => name === options.overlayDevice)?.index;
    this.#routed = new Set(state.defaultRoutes.map(({ link }) => link).filter((index) => index !== overlay));
    const own = new Set((options.nodeAddresses ?? []).map(formatAddress));
    this.#node = new Set(
      state.addresses.filter(({ address }) => own.has(formatAddress(address))).map(({ link }) => link),
    );
    this.#before = this.#proofsBefore(state, options);
  }

  /** By index: a device made anew under an old name starts anew. */
  #proofsBefore(state: LinkState, options: DeviceOptions): ReadonlySet<number> {
    const addressed = new Set(state.addresses.filter(({ scope }) => scope === 0).map(({ link }) => link));
    const proofs = [ROUTED, CARRIES, KEPT];
    return new Set(
      (options.previous ?? [])
        .filter(({ role, reason, index }) => role === 'external' && proofs.includes(reason) && addressed.has(index))
        .map(({ index }) => index),
    );
  }

  role(link: Link): Verdict {
    const proof = this.#proof(link);
    if (proof !== undefined) return proof;
    const master = link.master === undefined ? undefined : this.#links.get(link.master);
    if (master !== undefined && SWITCHING_MASTERS.has(master.kind)) {
      return ['internal', `port of ${master.name}, which is seen in its place`];
    }
    return this.#nature(link);
  }

  #proof(link: Link): Verdict | undefined {
    if (this.#routed.has(link.index)) return ['external', ROUTED];
    if (this.#node.has(link.index)) return ['external', CARRIES];
    if (this.#before.has(link.index) && link.up) return ['external', KEPT];
    return undefined;
  }

  /** What a device is by itself, as a port of nothing. */
  #nature(link: Link): Verdict {
    const known = this.#natures.get(link.index);
    if (known !== undefined) return known;
    // Stands while the devices below are looked at, should they ever form a circle.
    this.#natures.set(link.index, ['external', 'part of a circle of devices']);
    const verdict = this.#proof(link) ?? this.#byKind(link);
    this.#natures.set(link.index, verdict);
    return verdict;
  }

  #byKind(link: Link): Verdict {
    const border = BORDER_KINDS.get(link.kind);
    if (border !== undefined) return ['external', border];
    if (link.kind === 'bridge') return this.#bridge(link);
    if (link.kind === 'tun') {
      return link.hardware === ARPHRD_ETHER
        ? ['internal', 'tap of a local virtual machine']
        : ['external', 'tunnel of a VPN'];
    }
    if (INNER_KINDS.has(link.kind)) return ['internal', `${link.kind} without a default route`];
    if (STACKED_KINDS.has(link.kind)) return this.#stacked(link);
    // Tunnels (ipip, gre, vxlan, ...) and what we do not know. The kernel makes tunl0, sit0 and so on by itself, down.
    return link.up ? ['external', `${link.kind} leads out of the machine`] : ['internal', `${link.kind} that is down`];
  }

  #bridge(link: Link): Verdict {
    const port = (this.#ports.get(link.index) ?? []).find((each) => this.#nature(each)[0] === 'external');
    return port === undefined
      ? ['internal', 'bridge without an external port']
      : ['external', `bridge with the external port ${port.name}`];
  }

  #stacked(link: Link): Verdict {
    const below = link.parent === undefined ? undefined : this.#links.get(link.parent);
    if (below === undefined) return ['external', `${link.kind} on a device outside of this namespace`];
    const [nature] = this.#nature(below);
    return nature === 'external'
      ? ['external', `${link.kind} on ${below.name}`]
      : ['internal', `${link.kind} on ${below.name}, which is internal`];
  }
}
