import { RESERVED } from '../../core/identity.ts';
import type { Prefix } from '../../core/ip.ts';
import { type DirectionPolicy, type PolicyClass, type PolicyRow, PROTOCOL } from '../../policy/result.ts';
import type { Border, DesiredOverlay, DesiredState } from '../desired.ts';
import { addressKey, byteKey, markKey, portKey } from '../fields.ts';
import { VERDICT } from './elements.ts';
import { identityMark } from './names.ts';
import { type AddressRange, flatten, toWords } from './ranges.ts';
import type { Elements } from './tracker.ts';

/** In a map of ranges; see `classNumber`. */
function turnedMarkKey(value: number): string {
  return addressKey([value]);
}

/** The class number in the key of a row. */
export function readClass(name: (typeof ROW_MAPS)[number], key: Buffer): number {
  return name === 'range' ? key.readUInt32BE(0) : readMark(key);
}

export function readMark(key: Buffer): number {
  return key.readUInt32LE(0);
}

const MAX_DEVICE_NAME = 15;

/** Names of devices are bytes; one that is too long is no device. */
function deviceKeys(names: readonly string[]): string[] {
  return names
    .map((name) => Buffer.from(name).toString('latin1'))
    .filter((name) => name !== '' && name.length <= MAX_DEVICE_NAME)
    .map((name) => name.padEnd(MAX_DEVICE_NAME + 1, '\0'));
}

const NFPROTO = { ipv4: '\x02', ipv6: '\x0a' } as const;
/** Keys of maps by family. */
export const FAMILIES: readonly string[] = Object.values(NFPROTO);

export function rangeElements(ranges: readonly AddressRange[], count: 1 | 4): Elements {
  const elements: Elements = new Map();
  for (const { first, last, value } of ranges) {
    elements.set(addressKey(toWords(first, count)) + addressKey(toWords(last, count)), value);
  }
  return elements;
}

export interface FlatPrefixes {
  readonly v4: AddressRange[];
  readonly v6: AddressRange[];
}

export function flatPrefixes(prefixes: Iterable<{ readonly prefix: Prefix; readonly identity: number }>): FlatPrefixes {
  const all = [...prefixes].map(({ prefix, identity }) => ({ prefix, identity: identityMark(identity) }));
  return {
    v4: flatten(all.filter(({ prefix }) => prefix.family === 4)),
    v6: flatten(all.filter(({ prefix }) => prefix.family === 6)),
  };
}

/** The sets that follow from the border and the overlay. */
export function borderElements(desired: DesiredState): ReadonlyMap<string, Elements> {
  const { border, overlay } = desired;
  const tunnel = tunnelOpen(border, overlay) ? [{ port: border.tunnelPort }] : [];
  const sets = new Map<string, Elements>([
    [
      'world',
      new Map([
        [NFPROTO.ipv4, worldOf(4, border.dualStack)],
        [NFPROTO.ipv6, worldOf(6, border.dualStack)],
      ]),
    ],
    ['audits', members(border.audit ? FAMILIES : [])],
    ['watched', members(border.watchAllowed === true ? FAMILIES : [])],
    ['external', members(deviceKeys(border.devices.filter((name) => name !== overlay?.device)))],
    ['overlay', members(deviceKeys(overlay === undefined ? [] : [overlay.device]))],
    ['tunnel', members(tunnel.map(({ port }) => portKey(port, false)))],
    ['exempt_in', members(exemptPorts(DHCP.in, border.failsafe.ingress, tunnel))],
    ['exempt_out', members(exemptPorts(DHCP.out, border.failsafe.egress, border.stores, tunnel))],
    ['failsafe_in', members(border.failsafe.ingress.map(({ protocol, port }) => byteKey(protocol) + portKey(port)))],
    ['failsafe_out', members(border.failsafe.egress.map(({ protocol, port }) => byteKey(protocol) + portKey(port)))],
  ]);
  for (const family of [4, 6] as const) {
    const nodes = border.nodes.filter((node) => node.family === family).map(({ words }) => addressKey(words));
    sets.set(`nodes${family}`, members(tunnel.length > 0 ? nodes : []));
    const stores = border.stores.filter(({ address }) => address.family === family);
    sets.set(`stores${family}`, members(stores.map(({ address, port }) => addressKey(address.words) + portKey(port))));
  }
  return sets;
}

/** The identity of an address that nothing is known of. */
export function worldOf(family: 4 | 6, dualStack: boolean): number {
  if (!dualStack) return RESERVED.world;
  return family === 4 ? RESERVED.worldIpv4 : RESERVED.worldIpv6;
}

/** Where DHCP is spoken to. */
const DHCP = { in: [{ port: 68 }, { port: 546 }], out: [{ port: 67 }, { port: 547 }] } as const;

/** Ports that some exemption speaks of: packets to them are looked at in full. */
function exemptPorts(...lists: readonly (readonly { readonly port: number }[])[]): string[] {
  return lists.flat().map(({ port }) => portKey(port, false));
}

function tunnelOpen(border: Border, overlay: DesiredOverlay | undefined): boolean {
  return overlay !== undefined && border.tunnelPort > 0;
}

function members(keys: readonly string[]): Elements {
  return new Map(keys.map((key) => [key, 0]));
}

/** The name of a map without its direction, and the key without its class. */
export type RowElements = Map<string, number>;

/**
 * Deleting from a map of ranges takes the kernel a time that grows with the square of their number (10 s for 16,000). A
 * class with more ranges than this has its narrow ones written port by port; wide ones cannot be many.
 */
const MAX_RANGES = 64;
const NARROW = 32;

/** The rows of a class: `map key` (a space between) to verdict code, without class number. */
export function rowElements(policyClass: PolicyClass, policy: DirectionPolicy, audit: boolean): RowElements {
  const rows: RowElements = new Map();
  const codeOf = (row: PolicyRow): number => {
    if (row.verdict === 'allow') return VERDICT.return;
    return row.audit === true || audit ? VERDICT.audited : VERDICT.denyRule;
  };
  const many = policyClass.rows.filter(isRange).length > MAX_RANGES;
  const isNarrow = (row: PolicyRow): boolean => many && isRange(row) && row.last - row.first < NARROW;
  for (const row of policyClass.rows.filter(isNarrow)) {
    const protocol = byteKey(row.protocol);
    for (let port = row.first; port <= row.last; port++) rows.set(`port ${protocol}${portKey(port)}`, codeOf(row));
  }
  // An exact port in a range has the last word.
  for (const row of policyClass.rows) if (!isNarrow(row)) for (const key of rowKeys(row)) rows.set(key, codeOf(row));
  const open = !(policy.enforcing && policy.defaultDeny);
  if (open && !rows.has('all ')) rows.set('all ', VERDICT.return);
  // A class that denies everything has a row too: to be seen, to be counted, and to be found again by its identities.
  if (rows.size === 0) rows.set('all ', audit ? VERDICT.audited : VERDICT.noRule);
  return rows;
}

/** A row that goes into a map of ranges. */
function isRange({ protocol, first, last }: PolicyRow): boolean {
  return HAS_PORTS.has(protocol) && first < last && !(first === 0 && last >= 65535);
}

function rowKeys(row: PolicyRow): string[] {
  if (row.protocol === PROTOCOL.any) return ['all '];
  const protocol = byteKey(row.protocol);
  if (row.first === 0 && row.last >= 65535) return [`proto ${protocol}`];
  if (row.protocol === PROTOCOL.icmp || row.protocol === PROTOCOL.icmpv6) {
    const name = row.protocol === PROTOCOL.icmp ? 'icmp4' : 'icmp6';
    const last = Math.min(row.last, 255);
    return Array.from({ length: Math.max(0, last - row.first + 1) }, (_, i) => `${name} ${byteKey(row.first + i)}`);
  }
  if (row.first === row.last) return [`port ${protocol}${portKey(row.first)}`];
  return [`range ${protocol}${portKey(row.first)} ${protocol}${portKey(row.last)}`];
}

/** Puts the class number into a row: the map's name in this direction and its whole key. */
export function rowAddress(row: string, number: number, side: 'in' | 'out'): readonly [set: string, key: string] {
  const gap = row.indexOf(' ');
  const name = row.slice(0, gap);
  const rest = row.slice(gap + 1);
  if (name !== 'range') return [`${name}_${side}`, markKey(number) + rest];
  // A range holds both ends, eight bytes each with a space between.
  const mark = turnedMarkKey(number);
  return [`range_${side}`, mark + rest.slice(0, 8) + mark + rest.slice(9)];
}

const HAS_PORTS: ReadonlySet<number> = new Set([PROTOCOL.tcp, PROTOCOL.udp, PROTOCOL.sctp]);

export const ROW_MAPS = ['port', 'range', 'icmp4', 'icmp6', 'proto', 'all'] as const;

/** The other way around: what the kernel holds, as row without class number. */
export function rowOfKernel(name: (typeof ROW_MAPS)[number], key: Buffer, keyEnd: Buffer | undefined): string {
  const rest = key.toString('latin1', 4);
  return name === 'range' ? `range ${rest} ${(keyEnd ?? key).toString('latin1', 4)}` : `${name} ${rest}`;
}
