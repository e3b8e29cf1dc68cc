import { parseIpv4, parseIpv6 } from '../../../src/core/ip.ts';

/** Whole frames, made by hand: what no socket would send. */
export interface Ends {
  /** Hardware addresses: `02:00:00:00:00:01`. */
  readonly fromMac: string;
  readonly toMac: string;
  readonly from: string;
  readonly to: string;
}

const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd, vlan: 0x8100 } as const;

function ethernet({ fromMac, toMac }: Ends, type: number, vlan?: number): Buffer {
  const bytes = (mac: string): Buffer => Buffer.from(mac.replaceAll(':', ''), 'hex');
  const word = (value: number): Buffer => Buffer.from([value >>> 8, value & 255]);
  const tag = vlan === undefined ? [] : [word(ETHERTYPE.vlan), word(vlan)];
  return Buffer.concat([bytes(toMac), bytes(fromMac), ...tag, word(type)]);
}

export interface Ipv4Options {
  readonly protocol: number;
  readonly payload: Buffer;
  /** In bytes; a later fragment with more than 0. */
  readonly offset?: number;
  readonly more?: boolean;
  readonly id?: number;
  /** Of the header, in words of four bytes; 5 by default. */
  readonly words?: number;
  readonly vlan?: number;
}

export function ipv4Frame(ends: Ends, options: Ipv4Options): Buffer {
  const { protocol, payload, offset = 0, more = false, id = 7, words = 5, vlan } = options;
  const header = Buffer.alloc(20);
  header[0] = 0x40 | words;
  header.writeUInt16BE(20 + payload.length, 2);
  header.writeUInt16BE(id, 4);
  header.writeUInt16BE((more ? 0x2000 : 0) | (offset >> 3), 6);
  header[8] = 64;
  header[9] = protocol;
  header.writeUInt32BE(parseIpv4(ends.from) as number, 12);
  header.writeUInt32BE(parseIpv4(ends.to) as number, 16);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([ethernet(ends, ETHERTYPE.ipv4, vlan), header, payload]);
}

/** `extensions`: so many hop-by-hop or destination options (8 bytes each) before the payload. */
export function ipv6Frame(ends: Ends, of: { protocol: number; payload: Buffer; extensions?: number }): Buffer {
  const { protocol, payload, extensions = 0 } = of;
  const DESTINATION_OPTIONS = 60;
  const header = Buffer.alloc(40);
  header[0] = 0x60;
  header.writeUInt16BE(payload.length + extensions * 8, 4);
  header[6] = extensions > 0 ? DESTINATION_OPTIONS : protocol;
  header[7] = 64;
  for (const [at, address] of [
    [8, ends.from],
    [24, ends.to],
  ] as const) {
    for (const [index, word] of (parseIpv6(address) ?? []).entries()) header.writeUInt32BE(word, at + index * 4);
  }
  const options = Array.from({ length: extensions }, (_, index) => {
    const next = index === extensions - 1 ? protocol : DESTINATION_OPTIONS;
    // One option that pads the rest.
    return Buffer.from([next, 0, 1, 4, 0, 0, 0, 0]);
  });
  return Buffer.concat([ethernet(ends, ETHERTYPE.ipv6), header, ...options, payload]);
}

/** A datagram without a checksum, which IPv4 allows; who only counts packets does not ask for one. */
export function udp(from: number, to: number, length = 8): Buffer {
  const bytes = Buffer.alloc(length);
  bytes.writeUInt16BE(from, 0);
  bytes.writeUInt16BE(to, 2);
  bytes.writeUInt16BE(length, 4);
  return bytes;
}

/** A segment without payload; its checksum is wrong, which only a socket would mind. */
export function tcp(from: number, to: number, flags: number): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt16BE(from, 0);
  bytes.writeUInt16BE(to, 2);
  bytes[12] = 5 << 4;
  bytes[13] = flags;
  bytes.writeUInt16BE(1000, 14);
  return bytes;
}

function checksum(data: Buffer): number {
  let sum = 0;
  for (let at = 0; at < data.length; at += 2) sum += data.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
