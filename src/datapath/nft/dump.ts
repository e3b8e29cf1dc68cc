import { formatIpv4, formatIpv6, formatPrefix } from '../../core/ip.ts';
import type { NetlinkSocket } from '../../host/netlink.ts';
import type { KernelAddress, KernelPolicyRow } from '../datapath.ts';
import { type KernelElement, VERDICT } from './elements.ts';
import { dumpIfThere, readRanges } from './held.ts';
import { ROW_MAPS, readClass, readMark } from './keys.ts';
import { hostMap, SHARDS } from './names.ts';
import { rangePrefixes } from './ranges.ts';

const SIDES = [
  ['in', 'ingress'],
  ['out', 'egress'],
] as const;

/** Addresses and prefixes that the kernel knows; prefixes as it holds them, that is without overlaps. */
export async function dumpAddresses(socket: NetlinkSocket): Promise<KernelAddress[]> {
  const found: KernelAddress[] = [];
  const add = (prefix: string, identity: number): void => {
    found.push({ prefix, identity, tunnelEndpoint: '0.0.0.0' });
  };
  for (const family of [4, 6] as const) {
    for (const range of (await readRanges(socket, `cidr${family}`, family === 4 ? 1 : 4)) ?? []) {
      for (const prefix of rangePrefixes(range, family)) add(formatPrefix(prefix), range.value);
    }
  }
  for (const shard of SHARDS) {
    await dumpIfThere(socket, hostMap(4, shard), ({ key, value }) => {
      add(`${formatIpv4(key.readUInt32BE(0))}/32`, value);
    });
    await dumpIfThere(socket, hostMap(6, shard), ({ key, value }) => {
      add(`${formatIpv6([0, 4, 8, 12].map((at) => key.readUInt32BE(at)))}/128`, value);
    });
  }
  return found;
}

export async function dumpPolicy(socket: NetlinkSocket): Promise<KernelPolicyRow[]> {
  const found: KernelPolicyRow[] = [];
  for (const [side, direction] of SIDES) {
    const members = new Map<number, number[]>();
    await dumpIfThere(socket, `class_${side}`, ({ key, value }) => {
      const list = members.get(value);
      if (list === undefined) members.set(value, [readMark(key)]);
      else list.push(readMark(key));
    });
    await forEachRow(socket, side, (name, element) => {
      const classNumber = readClass(name, element.key);
      found.push({
        direction,
        verdict: element.value === VERDICT.return ? 'allow' : 'deny',
        ...(element.value === VERDICT.audited && { audit: true }),
        identities: members.get(classNumber) ?? [],
        classNumber,
        ...portsOf(name, element),
        packets: element.packets,
        bytes: element.bytes,
      });
    });
  }
  return found;
}

type RowMap = (typeof ROW_MAPS)[number];

export async function forEachRow(
  socket: NetlinkSocket,
  side: 'in' | 'out',
  visit: (name: RowMap, element: KernelElement) => void,
): Promise<void> {
  for (const name of ROW_MAPS) await dumpIfThere(socket, `${name}_${side}`, (element) => visit(name, element));
}

function portsOf(name: RowMap, { key, keyEnd }: KernelElement): { protocol: number; first: number; last: number } {
  if (name === 'all') return { protocol: 0, first: 0, last: 65535 };
  if (name === 'icmp4' || name === 'icmp6') {
    const type = key[4] ?? 0;
    return { protocol: name === 'icmp4' ? 1 : 58, first: type, last: type };
  }
  const protocol = key[4] ?? 0;
  if (name === 'proto') return { protocol, first: 0, last: 65535 };
  return { protocol, first: key.readUInt16BE(8), last: (keyEnd ?? key).readUInt16BE(8) };
}
