import { Place } from './place.ts';

/**
 * A network of namespaces, with real packets:
 *
 *      world 203.0.113.10                      pod 10.244.1.5   pod 10.244.1.6
 *            │                                       └──────┬────────┘
 *        underlay (router, .1)                            node  192.168.100.21
 *            └────────┬──────── bridge 192.168.100.0/24 ────┴────── more nodes
 *                 machine 192.168.100.10
 *
 * IPv6 beside IPv4 everywhere. A node stands for a Cilium node: in tunnel mode it sends what its pods send to machines
 * inside VXLAN, with the pod's identity as the VXLAN network identifier, and takes what machines send to its pods. In
 * native mode the router knows the pods' ranges and nothing is encapsulated. Machines bring their own side: the agent.
 */
export interface DualAddress {
  readonly ipv4: string;
  readonly ipv6: string;
}

export type Routing = 'tunnel' | 'native';

const PORT = 8472;
/** A Linux host forwards, has no opinion on asymmetric routes, and its addresses serve at once. */
const ROUTER = [
  'net.ipv4.ip_forward=1',
  'net.ipv6.conf.all.forwarding=1',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
  'net.ipv4.conf.all.send_redirects=0',
  'net.ipv4.conf.default.send_redirects=0',
];
const QUICK = ['net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0'];

export class Topology {
  readonly routing: Routing;
  readonly underlay: Place;
  readonly world: Place & DualAddress;
  readonly machines: (Place & DualAddress)[] = [];
  readonly nodes: ClusterNode[] = [];
  readonly #introduced: boolean;
  readonly #hosts: Place[] = [];

  /** Unless `introduced` is false, nodes know of machines by themselves. */
  constructor(options: { readonly routing?: Routing; readonly introduced?: boolean } = {}) {
    this.routing = options.routing ?? 'tunnel';
    this.#introduced = options.introduced ?? true;
    this.underlay = new Place('underlay');
    sysctl(this.underlay, [...ROUTER, ...QUICK]);
    batch(this.underlay, [
      'link add br0 type bridge',
      'address add 192.168.100.1/24 dev br0',
      'address add fd00:100::1/64 dev br0 nodad',
      'link set br0 up',
    ]);
    this.world = withAddresses(new Place('world'), { ipv4: '203.0.113.10', ipv6: '2001:db8:113::10' });
    sysctl(this.world, QUICK);
    batch(this.underlay, [
      `link add world type veth peer name eth0 netns ${this.world.namespace.name}`,
      'address add 203.0.113.1/24 dev world',
      'address add 2001:db8:113::1/64 dev world nodad',
      'link set world up',
    ]);
    batch(this.world, [
      'address add 203.0.113.10/24 dev eth0',
      'address add 2001:db8:113::10/64 dev eth0 nodad',
      'link set eth0 up',
      'route add default via 203.0.113.1',
      '-6 route add default via 2001:db8:113::1',
    ]);
  }

  /** A machine, 192.168.100.10 for the first. */
  machine(label = 'vm'): Place & DualAddress {
    const host = 10 + this.machines.length;
    const place = this.#onBridge(label, host);
    this.machines.push(place);
    if (this.#introduced) for (const node of this.nodes) node.meet(place);
    return place;
  }

  /** A host that is neither machine nor node, 192.168.100.<host>. */
  host(label: string, host: number): Place & DualAddress {
    const place = this.#onBridge(label, host);
    this.#hosts.push(place);
    return place;
  }

  /** Node `index` (1 to 9) of a cluster, 192.168.100.2x for cluster 1, with pods in 10.24<cluster+3>.<index>.0/24. */
  node(label: string, where: { readonly cluster: number; readonly index?: number }): ClusterNode {
    const index = where.index ?? 1;
    const place = this.#onBridge(label, 10 * (where.cluster + 1) + index);
    const node = new ClusterNode(place, { ...where, index, routing: this.routing });
    this.nodes.push(node);
    if (this.#introduced) for (const machine of this.machines) node.meet(machine);
    if (this.routing === 'native')
      batch(this.underlay, [
        `route add ${node.range4} via ${node.place.ipv4}`,
        `-6 route add ${node.range6} via ${node.place.ipv6}`,
      ]);
    return node;
  }

  async close(): Promise<void> {
    const pods = this.nodes.flatMap((node) => [...node.pods, node.place]);
    const hosts = [...this.machines, ...this.#hosts, this.world, this.underlay];
    await Promise.all([...pods, ...hosts].map((place) => place.close()));
  }

  #onBridge(label: string, host: number): Place & DualAddress {
    const place = withAddresses(new Place(label), { ipv4: `192.168.100.${host}`, ipv6: `fd00:100::${host}` });
    sysctl(place, QUICK);
    batch(this.underlay, [
      `link add port${host} type veth peer name eth0 netns ${place.namespace.name}`,
      `link set port${host} master br0 up`,
    ]);
    batch(place, [
      `address add ${place.ipv4}/24 dev eth0`,
      `address add ${place.ipv6}/64 dev eth0 nodad`,
      'link set eth0 up',
      'route add default via 192.168.100.1',
      '-6 route add default via fd00:100::1',
    ]);
    return place;
  }
}

interface NodeShape {
  readonly cluster: number;
  readonly index: number;
  readonly routing: Routing;
}

export type Pod = Place & DualAddress;

export class ClusterNode {
  readonly place: Place & DualAddress;
  readonly range4: string;
  readonly range6: string;
  readonly pods: Pod[] = [];
  readonly #shape: NodeShape;
  readonly #identities = new Map<Pod, number>();
  /** Prefixes that lie behind machines, and the tunnel endpoint of each. */
  readonly #behind = new Map<string, string>();

  constructor(place: Place & DualAddress, shape: NodeShape) {
    this.place = place;
    this.#shape = shape;
    this.range4 = `10.${243 + shape.cluster}.${shape.index}.0/24`;
    this.range6 = `fd00:${243 + shape.cluster}:${shape.index}::/64`;
    sysctl(place, ROUTER);
    if (shape.routing === 'native') return;
    batch(place, [
      `link add cilium_vxlan type vxlan external dstport ${PORT} nolearning`,
      'link set cilium_vxlan arp off mtu 1450 up',
    ]);
    // Frames carry the sender's own hardware address. What identity they claim is kept for `seenIdentities`.
    const rules = `
      table netdev lab {
        chain arrive {
          type filter hook ingress device "cilium_vxlan" priority 0;
          meta pkttype set host;
        }
      }
      table ip lab {
        set claimed { type mark; flags dynamic; size 1000; }
        chain arrive {
          type filter hook prerouting priority -300;
          udp dport ${PORT} meta mark set @th,96,32 >> 8 add @claimed { meta mark } meta mark set 0;
        }
      }`;
    place.namespace.feed(rules, 'nft', '-f', '-');
  }

  /** A pod, `<range>.<host>`. It sends with no identity until it has one. */
  pod(label: string, host: number): Pod {
    const place = new Place(label);
    const pod = withAddresses(place, {
      ipv4: this.range4.replace('0/24', String(host)),
      ipv6: this.range6.replace('/64', String(host)),
    });
    const device = `lxc${host}`;
    sysctl(place, QUICK);
    batch(this.place, [
      `link add ${device} type veth peer name eth0 netns ${place.namespace.name}`,
      `address add 169.254.1.1/32 dev ${device}`,
      `address add fe80::1/64 dev ${device} nodad`,
      `link set ${device} up`,
      `route add ${pod.ipv4} dev ${device}`,
      `-6 route add ${pod.ipv6} dev ${device}`,
      `rule add pref 100 iif ${device} lookup ${100 + host}`,
      `-6 rule add pref 100 iif ${device} lookup ${100 + host}`,
    ]);
    batch(place, [
      `address add ${pod.ipv4}/32 dev eth0`,
      `address add ${pod.ipv6}/128 dev eth0 nodad`,
      'link set eth0 up',
      'route add 169.254.1.1 dev eth0',
      'route add default via 169.254.1.1 dev eth0',
      '-6 route add default via fe80::1 dev eth0',
    ]);
    this.pods.push(pod);
    return pod;
  }

  /** What the pod sends to machines carries this identity from now on. Without a meaning in native mode. */
  identify(pod: Pod, identity: number): void {
    this.#identities.set(pod, identity);
    for (const [prefix, host] of this.#behind) this.#encapsulate(pod, prefix, host);
  }

  /** Learns of a machine, and of ranges of its own. */
  meet(machine: DualAddress, ranges: readonly string[] = []): void {
    for (const prefix of [`${machine.ipv4}/32`, `${machine.ipv6}/128`, ...ranges]) this.learn(prefix, machine.ipv4);
  }

  /** What its pods send to a prefix goes to this tunnel endpoint. */
  learn(prefix: string, host: string): void {
    if (this.#behind.get(prefix) === host) return;
    this.#behind.set(prefix, host);
    for (const pod of this.#identities.keys()) this.#encapsulate(pod, prefix, host);
  }

  forget(prefix: string): void {
    if (!this.#behind.delete(prefix) || this.#shape.routing === 'native') return;
    for (const pod of this.#identities.keys())
      batch(this.place, [`${family(prefix)}route delete ${prefix} table ${tableOf(pod)}`]);
  }

  /** Hides pods behind the node where their packets leave the overlay, as Cilium does by default. */
  masquerade(): void {
    const rules = (['ip', 'ip6'] as const).map((kind) => {
      const range = kind === 'ip' ? this.range4 : this.range6;
      return `
        table ${kind} lab_nat {
          chain leave {
            type nat hook postrouting priority 100;
            ${kind} saddr ${range} oifname "eth0" masquerade;
          }
        }`;
    });
    this.place.namespace.feed(rules.join('\n'), 'nft', '-f', '-');
  }

  /** The cluster's own policy for its pods: from machines they take what comes with one of these identities, nothing else. */
  admit(identities: readonly number[]): void {
    const set = `set admitted { type mark; ${identities.length === 0 ? '' : `elements = { ${identities.join(', ')} };`} }`;
    // The mark is that of the outer packet; the one inside starts without one.
    const rules = `
      table ip lab_policy;
      delete table ip lab_policy;
      table ip lab_policy {
        ${set}
        chain arrive {
          type filter hook prerouting priority -290;
          udp dport ${PORT} meta mark set @th,96,32 >> 8 meta mark != @admitted drop;
          udp dport ${PORT} meta mark set 0;
        }
      }`;
    this.place.namespace.feed(rules, 'nft', '-f', '-');
  }

  /** Identities that arrived here in VXLAN. */
  seenIdentities(): number[] {
    const dump = JSON.parse(this.place.namespace.run('nft', '-j', 'list', 'set', 'ip', 'lab', 'claimed')) as {
      nftables: { set?: { elem?: (number | string)[] } }[];
    };
    return dump.nftables.flatMap(({ set }) => set?.elem ?? []).map(Number);
  }

  #encapsulate(pod: Pod, prefix: string, host: string): void {
    if (this.#shape.routing === 'native') return;
    const encap = `encap ip id ${this.#identities.get(pod)} dst ${host} dev cilium_vxlan table ${tableOf(pod)}`;
    batch(this.place, [`${family(prefix)}route replace ${prefix} ${encap}`]);
  }
}

function tableOf(pod: Pod): number {
  return 100 + Number(pod.ipv4.split('.')[3]);
}

function family(prefix: string): '-6 ' | '' {
  return prefix.includes(':') ? '-6 ' : '';
}

function withAddresses(place: Place, addresses: DualAddress): Place & DualAddress {
  return Object.assign(place, addresses);
}

/** Lines of `ip`; those of IPv6, marked with -6, run last. */
function batch(place: Place, lines: readonly string[]): void {
  const six = lines.filter((line) => line.startsWith('-6 '));
  const other = lines.filter((line) => !six.includes(line));
  if (other.length > 0) place.namespace.feed(other.join('\n'), 'ip', '-batch', '-');
  if (six.length > 0) place.namespace.feed(six.map((line) => line.slice(3)).join('\n'), 'ip', '-6', '-batch', '-');
}

function sysctl(place: Place, settings: readonly string[]): void {
  place.namespace.run('sysctl', '-q', '-w', ...settings);
}
