import type { Address } from './ip.ts';

/** The headers of one IP packet, as far as policies look at them. */
export interface PacketHeaders {
  readonly source: Address;
  readonly destination: Address;
  /** IP protocol number of the transport. */
  readonly protocol: number;
  /** Zero where the protocol has none; of ICMP the type is the destination port. */
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly tcpFlags: number;
  /** Zero where it is no ICMP. */
  readonly icmpCode: number;
  /** A later fragment, which has no ports. */
  readonly fragment: boolean;
  /** Of the whole packet, as its header says. */
  readonly length: number;
  /** Where the transport's payload begins; the length of the packet when it holds none. */
  readonly payloadAt: number;
}

const ICMP = 1;
const TCP = 6;
const UDP = 17;
const ICMPV6 = 58;
const SCTP = 132;
/** Hop-by-hop, routing, destination options: all end with a length in units of eight bytes. */
const EXTENSIONS: ReadonlySet<number> = new Set([0, 43, 60]);
const FRAGMENT = 44;
const MAX_EXTENSIONS = 8;

/** Reads a packet from its network header on; undefined when it is cut short or makes no sense. Never throws. */
export function readPacket(data: Buffer): PacketHeaders | undefined {
  const version = (data[0] ?? 0) >>> 4;
  if (version === 4) return readIpv4(data);
  return version === 6 ? readIpv6(data) : undefined;
}

function readIpv4(data: Buffer): PacketHeaders | undefined {
  const length = ((data[0] ?? 0) & 15) * 4;
  if (length < 20 || data.length < length) return undefined;
  const source: Address = { family: 4, words: [data.readUInt32BE(12)] };
  const destination: Address = { family: 4, words: [data.readUInt32BE(16)] };
  const later = (data.readUInt16BE(6) & 0x1fff) !== 0;
  return transport(data, {
    source,
    destination,
    protocol: data[9] as number,
    at: length,
    later,
    length: data.readUInt16BE(2),
  });
}

function readIpv6(data: Buffer): PacketHeaders | undefined {
  if (data.length < 40) return undefined;
  const words = (at: number): number[] => [0, 4, 8, 12].map((offset) => data.readUInt32BE(at + offset));
  const source: Address = { family: 6, words: words(8) };
  const destination: Address = { family: 6, words: words(24) };
  let protocol = data[6] as number;
  let at = 40;
  let later = false;
  for (let i = 0; i < MAX_EXTENSIONS && at + 8 <= data.length; i++) {
    if (EXTENSIONS.has(protocol)) {
      protocol = data[at] as number;
      at += ((data[at + 1] as number) + 1) * 8;
    } else if (protocol === FRAGMENT) {
      protocol = data[at] as number;
      later ||= (data.readUInt16BE(at + 2) & 0xfff8) !== 0;
      at += 8;
    } else break;
  }
  return transport(data, { source, destination, protocol, at, later, length: 40 + data.readUInt16BE(4) });
}

interface Transport {
  readonly source: Address;
  readonly destination: Address;
  readonly protocol: number;
  readonly at: number;
  /** A later fragment: no transport header. */
  readonly later: boolean;
  readonly length: number;
}

function transport(data: Buffer, { source, destination, protocol, at, later, length }: Transport): PacketHeaders {
  const none = {
    source,
    destination,
    protocol,
    sourcePort: 0,
    destinationPort: 0,
    tcpFlags: 0,
    icmpCode: 0,
    fragment: later,
    length,
    payloadAt: data.length,
  };
  if (later) return none;
  if ((protocol === ICMP || protocol === ICMPV6) && at + 2 <= data.length) {
    const [type, code] = [data[at] as number, data[at + 1] as number];
    return { ...none, destinationPort: type, icmpCode: code, payloadAt: Math.min(data.length, at + 8) };
  }
  if ((protocol !== TCP && protocol !== UDP && protocol !== SCTP) || at + 4 > data.length) return none;
  const ports = { ...none, sourcePort: data.readUInt16BE(at), destinationPort: data.readUInt16BE(at + 2) };
  if (protocol === UDP) return { ...ports, payloadAt: Math.min(data.length, at + 8) };
  if (protocol === SCTP) return { ...ports, payloadAt: Math.min(data.length, at + 12) };
  if (at + 14 > data.length) return ports;
  const header = ((data[at + 12] as number) >>> 4) * 4;
  return { ...ports, tcpFlags: data[at + 13] as number, payloadAt: Math.min(data.length, at + header) };
}
