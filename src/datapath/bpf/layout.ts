import type { Address, Prefix, Words } from '../../core/ip.ts';
import { addressKey, markKey, portKey } from '../fields.ts';
import { VERDICT_KINDS, VERDICT_POINTS, type VerdictKind, type VerdictPoint } from '../verdict-log.ts';

/**
 * Keys and values of the maps, byte by byte as in native/bpf/policy.h: numbers in the byte order of the machine (all that we
 * build for are little endian), addresses and ports of the wire in network order. Keys are latin1 strings here.
 */
export const SIDES = ['in', 'out'] as const;
export type Side = (typeof SIDES)[number];
export const DIRECTION = { in: 'ingress', out: 'egress' } as const;

export const VERSIONED_BYTES = 16;
export const ROW_BYTES = 40;
export const CONFIGS = 8;

/** Codes of rows; what an audited row says is its own code. */
export const CODE = { none: 0, allow: 1, denyRule: 2, noRule: 3, audited: 4 } as const;

export const FLAG = {
  audit: 1,
  watchAllowed: 2,
  tellNames: 4,
  overlay: 8,
  failsafe: { in: 16, out: 32 },
  ranges: { in: 64, out: 128 },
  stores: 256,
  prefixes: 512,
} as const;

export const PASS = { failsafe: { in: 0, out: 1 }, store: 2, node: 3 } as const;

/** What is before a revision and from it on; 0 for nothing. */
export interface Versioned {
  readonly before: number;
  readonly after: number;
  readonly since: bigint;
}

export function writeVersioned(into: Buffer, at: number, { before, after, since }: Versioned): void {
  into.writeUInt32LE(before, at);
  into.writeUInt32LE(after, at + 4);
  into.writeBigUInt64LE(since, at + 8);
}

export function readVersioned(value: Buffer): Versioned {
  return { before: value.readUInt32LE(0), after: value.readUInt32LE(4), since: value.readBigUInt64LE(8) };
}

export function keyWords(bytes: Buffer, at: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => bytes.readUInt32BE(at + i * 4));
}

function u16(value: number): string {
  return String.fromCharCode(value & 255, value >>> 8);
}

/** Of `prefixes4`, `prefixes6`. */
export function prefixKey({ bits, words }: Prefix): string {
  return markKey(bits) + addressKey(words);
}

export function readPrefix(key: Buffer): Prefix {
  const family = key.length === 8 ? 4 : 6;
  return { family, bits: key.readUInt32LE(0), words: keyWords(key, 4, family === 4 ? 1 : 4) };
}

/** Of `classes`. */
export function memberKey(identity: number, side: Side): string {
  return markKey(identity) + markKey(SIDES.indexOf(side));
}

export const ROW_KIND = { port: 0, protocol: 1, all: 2 } as const;

/** A row of one class: kind, protocol and port, as in the key of `rows`. */
export function rowKey(
  of: { kind: keyof typeof ROW_KIND; protocol: number; port: number },
  classNumber: number,
  side: Side,
): string {
  const kind = SIDES.indexOf(side) | (ROW_KIND[of.kind] << 1);
  return markKey(classNumber) + u16(of.port) + String.fromCharCode(of.protocol, kind);
}

const RANGE_FIXED_BITS = 48;

/** A part of a range: `bits` of the port count. Of `ranges`. */
export function rangeKey(
  of: { protocol: number; port: number; bits: number },
  classNumber: number,
  side: Side,
): string {
  const fields = addressKey([classNumber]) + String.fromCharCode(SIDES.indexOf(side), of.protocol);
  return markKey(RANGE_FIXED_BITS + of.bits) + fields + portKey(of.port, false);
}

/** The fewest parts `[port, bits]` that a range of ports consists of. */
export function rangeParts(first: number, last: number): { port: number; bits: number }[] {
  const parts: { port: number; bits: number }[] = [];
  for (let at = first; at <= last; ) {
    let size = 0;
    while (size < 16 && at % (1 << (size + 1)) === 0 && at + (1 << (size + 1)) - 1 <= last) size++;
    parts.push({ port: at, bits: 16 - size });
    at += 1 << size;
  }
  return parts;
}

/** Of `passes`. */
export function passKey(of: { kind: number; protocol?: number; port?: number; address?: Address }): string {
  const words: Words = of.address?.words ?? [];
  const protocol = of.address === undefined ? (of.protocol ?? 0) : of.address.family;
  return addressKey(words).padEnd(16, '\0') + portKey(of.port ?? 0, false) + String.fromCharCode(protocol, of.kind);
}

export interface PolicyConfig {
  readonly flags: number;
  readonly rate: number;
  readonly world: readonly [ipv4: number, ipv6: number];
  readonly others: readonly [ingress: number, egress: number];
  readonly tunnelPort: number;
  /** Marks outer packets of known nodes within the machine. */
  readonly arrived: number;
}

const CONFIG_BYTES = 32;

export function writeConfig(config: PolicyConfig): Buffer {
  const bytes = Buffer.alloc(CONFIG_BYTES);
  for (const [index, value] of [config.flags, config.rate, ...config.world, ...config.others].entries())
    bytes.writeUInt32LE(value, index * 4);
  bytes.writeUInt16BE(config.tunnelPort, 24);
  bytes.writeUInt16LE(config.arrived, 26);
  return bytes;
}

export function readConfig(bytes: Buffer): PolicyConfig {
  const word = (index: number): number => bytes.readUInt32LE(index * 4);
  return {
    flags: word(0),
    rate: word(1),
    world: [word(2), word(3)],
    others: [word(4), word(5)],
    tunnelPort: bytes.readUInt16BE(24),
    arrived: bytes.readUInt16LE(26),
  };
}

const KINDS = Object.keys(VERDICT_KINDS) as VerdictKind[];

/** The number of its counter. */
export function pointNumber({ kind, side }: VerdictPoint): number {
  return KINDS.indexOf(kind) * 2 + SIDES.indexOf(side);
}

const points = new Map(VERDICT_POINTS.map((point) => [pointNumber(point), point]));

/** What an event of the programs says of a packet. */
export function pointOf(kind: number, direction: number): VerdictPoint | undefined {
  return points.get(kind * 2 + direction);
}

/** Counters of what was told of lie behind those of the kinds. */
export function toldNumber(side: Side): number {
  return KINDS.length * 2 + SIDES.indexOf(side);
}
