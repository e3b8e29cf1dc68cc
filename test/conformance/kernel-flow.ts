import { type Address, addressBits, contains, formatAddress, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import { PROTOCOLS } from './run-case.ts';
import type { VectorCase, VectorFlow } from './vector.ts';

/** One flow of a case as a packet: who sends it to whom. */
export interface PacketFlow {
  readonly name: string;
  readonly direction: 'ingress' | 'egress';
  readonly peer: string;
  /** Of a peer that the case names by its number: the address stands for it. */
  readonly identity: number | undefined;
  /** IP protocol number. */
  readonly protocol: number;
  readonly port: number;
  readonly expected: 'allow' | 'deny';
}

/** Icmpv6 types that the rules let pass before any policy. */
const NEIGHBOURS: ReadonlySet<number> = new Set([2, 130, 131, 132, 133, 134, 135, 136, 143]);

/** The packets of a flow: one in each family where the case leaves it open. Empty for what no packet can say. */
export function packetFlows(vector: VectorCase, flow: VectorFlow): PacketFlow[] {
  const protocol = PROTOCOLS[flow.proto] ?? 0;
  const port = flow.icmpType ?? flow.port ?? 0;
  if (protocol === PROTOCOLS.ICMPv6 && NEIGHBOURS.has(port)) return [];
  const families = protocol === PROTOCOLS.ICMP ? [4] : protocol === PROTOCOLS.ICMPv6 ? [6] : [4, 6];
  // What only a proxy can allow, an agent without one denies.
  const expected = flow.l7Only === true ? 'deny' : flow.verdict;
  const said = { direction: flow.dir, protocol, port, expected } as const;
  const name = `${flow.dir} ${flow.peer ?? flow.peerIP} ${flow.proto}/${port}`;
  if (flow.peer === undefined) {
    const peer = parseAddress(flow.peerIP ?? '');
    if (peer === undefined || !families.includes(peer.family)) return [];
    return [{ ...said, name, peer: formatAddress(peer), identity: undefined }];
  }
  const identity = flow.peer;
  return families.map((family) => ({ ...said, name, identity, peer: addressFor(vector, identity, family) }));
}

/** A single address of the identity, or one that nobody has: its number in a range for benchmarks. */
function addressFor(vector: VectorCase, identity: number, family: number): string {
  for (const text of vector.identities?.find(({ id }) => id === identity)?.ips ?? []) {
    const prefix = parsePrefix(text);
    if (prefix?.family === family && prefix.bits === addressBits(prefix.family)) return formatAddress(prefix);
  }
  const known = [...new Set((vector.flows ?? []).flatMap(({ peer }) => (peer === undefined ? [] : [peer])))];
  const index = known.sort((a, b) => a - b).indexOf(identity) + 1;
  return family === 4 ? `198.18.${index >> 8}.${index & 255}` : `2001:2::${index.toString(16)}`;
}

const UNROUTABLE = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3', '169.254.0.0/16', '::/8', 'ff00::/8', 'fe80::/10'];

/** Whether a socket can send it: TCP and UDP to any port but zero, echo requests, between addresses of hosts. */
export function isSendable({ protocol, port, peer }: PacketFlow): boolean {
  const address = parseAddress(peer) as Address;
  const single = { ...address, bits: addressBits(address.family) };
  const inside = (text: string): boolean => {
    const prefix = parsePrefix(text);
    return prefix !== undefined && contains(prefix, single);
  };
  if (UNROUTABLE.some(inside)) return false;
  if (protocol === PROTOCOLS.TCP || protocol === PROTOCOLS.UDP) return port > 0;
  return (protocol === PROTOCOLS.ICMP && port === 8) || (protocol === PROTOCOLS.ICMPv6 && port === 128);
}
