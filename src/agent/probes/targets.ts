import type { AddressHealthRecord } from '../../api/node-health-types.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import { type Node, nodeIp } from '../../kvstore/codec/node.ts';

/** One address of a node that is probed. */
export interface Target extends Pick<AddressHealthRecord, 'ip' | 'kind' | 'primary' | 'path'> {
  readonly address: Address;
}

export interface TargetOptions {
  /** Families in which this machine has an address. */
  readonly families: readonly (4 | 6)[];
  readonly tunnel: boolean;
}

const ROUTER = 'CiliumInternalIP';
/** A node has a handful; what a hostile one announces beyond that is not probed. */
const MAX_TARGETS = 16;

/**
 * The addresses of a node to probe, primary ones first: its node address of each family and its health addresses, as
 * Cilium does; its further addresses for information, and with a tunnel its router address, which tells whether packets
 * inside the overlay arrive.
 */
export function targetsOf(node: Node, { families, tunnel }: TargetOptions): Target[] {
  const found = new Map<string, Target>();
  const add = (address: Address | undefined, facts: Omit<Target, 'ip' | 'address'>): void => {
    if (address === undefined || !families.includes(address.family) || !isHost(address)) return;
    const ip = formatAddress(address);
    if (!found.has(ip) && found.size < MAX_TARGETS) found.set(ip, { ip, address, ...facts });
  };
  const behind = tunnel ? ('tunnel' as const) : ('direct' as const);
  for (const family of [4, 6] as const) add(nodeIp(node, family), { kind: 'node', primary: true, path: 'direct' });
  for (const address of node.healthAddresses) add(address, { kind: 'health', primary: true, path: behind });
  for (const { type, address } of node.addresses) {
    if (type !== ROUTER) add(address, { kind: 'node', primary: false, path: 'direct' });
    else if (tunnel) add(address, { kind: 'router', primary: false, path: 'tunnel' });
  }
  return [...found.values()];
}

/** Not what a store could name to make us talk to ourselves or to a crowd: loopback, link-local, multicast, nothing. */
function isHost({ family, words }: Address): boolean {
  const first = words[0] ?? 0;
  if (family === 6) {
    const special = words.slice(0, 3).every((word) => word === 0) && (words[3] ?? 0) <= 1;
    return !special && first >>> 24 !== 0xff && first >>> 22 !== 0xfe80 >>> 6;
  }
  const top = first >>> 24;
  return top !== 0 && top !== 127 && top < 224 && first >>> 16 !== 0xa9fe;
}
