import { parseIpv4 } from '../../../src/core/ip.ts';

/** An SCTP packet with one INIT chunk, as the first of an association. */
export function sctpInit(from: number, to: number): Buffer {
  const packet = Buffer.alloc(32);
  packet.writeUInt16BE(from, 0);
  packet.writeUInt16BE(to, 2);
  packet.writeUInt8(1, 12);
  packet.writeUInt16BE(20, 14);
  packet.writeUInt32BE(0x1234, 16);
  packet.writeUInt32BE(65_535, 20);
  packet.writeUInt16BE(1, 24);
  packet.writeUInt16BE(1, 26);
  packet.writeUInt32LE(crc32c(packet), 8);
  return packet;
}

function crc32c(data: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

/** What the overlay's socket gets: VXLAN header, Ethernet, IPv4, and a UDP datagram to `port`. */
export function vxlanFrame(inner: { identity: number; from: string; to: string; port: number }): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt8(0x08, 0);
  header.writeUIntBE(inner.identity, 4, 3);
  const ethernet = Buffer.from('0200000000010200000000020800', 'hex');
  const ip = Buffer.from('4500001c000040004011000000000000'.padEnd(40, '0'), 'hex');
  ip.writeUInt32BE(parseIpv4(inner.from), 12);
  ip.writeUInt32BE(parseIpv4(inner.to), 16);
  ip.writeUInt16BE(checksum(ip), 10);
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(4242, 0);
  udp.writeUInt16BE(inner.port, 2);
  udp.writeUInt16BE(8, 4);
  return Buffer.concat([header, ethernet, ip, udp]);
}

function checksum(data: Buffer): number {
  let sum = 0;
  for (let at = 0; at < data.length; at += 2) sum += data.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
