import { formatAddress, parseAddress } from '../../../core/ip.ts';
import type { FrontendKey, ServiceTarget } from '../../../service/result.ts';
import { addressKey, byteKey, markKey, portKey } from '../keys.ts';

/** Bytes as a latin1 string, as everywhere in this folder: a key of the kernel's maps without the slot. */
export type FrontendBytes = string;

const ADDRESS_BYTES = { 4: 4, 6: 16 } as const;

export function frontendBytes(key: FrontendKey): { readonly family: 4 | 6; readonly bytes: FrontendBytes } | undefined {
  const [text = '', protocol, port] = key.split(' ');
  const address = parseAddress(text);
  if (address === undefined) return undefined;
  const tail = byteKey(Number(protocol)) + portKey(Number(port));
  return { family: address.family, bytes: addressKey(address.words) + tail };
}

export function readFrontend(family: 4 | 6, text: FrontendBytes): { address: string; protocol: number; port: number } {
  const buffer = Buffer.from(text, 'latin1');
  const width = ADDRESS_BYTES[family];
  return {
    address: readAddress(family, buffer),
    protocol: buffer[width] ?? 0,
    port: buffer.readUInt16BE(width + 4),
  };
}

/** By the names that nft has for them, and their numbers. */
export const PROTOCOLS = ['tcp', 'udp', 'sctp'] as const;
export type ProtocolName = (typeof PROTOCOLS)[number];
const NUMBERS: Readonly<Record<ProtocolName, number>> = { tcp: 6, udp: 17, sctp: 132 };

/** The map that has the slots of a protocol. */
export function slotMap(protocol: ProtocolName, family: 4 | 6): string {
  return `lb_${protocol}${family}`;
}

export function slotMapOf(family: 4 | 6, frontend: FrontendBytes): string {
  const number = frontend.charCodeAt(ADDRESS_BYTES[family]);
  return slotMap(PROTOCOLS.find((name) => NUMBERS[name] === number) ?? 'tcp', family);
}

/** The number of a slot is in the byte order of the machine, as `numgen` and `jhash` leave it. */
export function slotKey(family: 4 | 6, frontend: FrontendBytes, slot: number): string {
  const width = ADDRESS_BYTES[family];
  return frontend.slice(0, width) + frontend.slice(width + 4) + markKey(slot);
}

export function readSlot(
  protocol: ProtocolName,
  family: 4 | 6,
  key: Buffer,
): { readonly frontend: FrontendBytes; readonly slot: number } {
  const width = ADDRESS_BYTES[family];
  const frontend =
    key.toString('latin1', 0, width) + byteKey(NUMBERS[protocol]) + key.toString('latin1', width, width + 4);
  return { frontend, slot: key.readUInt32LE(width + 4) };
}

export function targetBytes({ address, port }: ServiceTarget): string {
  return addressKey(address.words) + portKey(port);
}

export function readTarget(family: 4 | 6, text: string): { readonly address: string; readonly port: number } {
  const buffer = Buffer.from(text, 'latin1');
  return { address: readAddress(family, buffer), port: buffer.readUInt16BE(ADDRESS_BYTES[family]) };
}

function readAddress(family: 4 | 6, buffer: Buffer): string {
  const words = Array.from({ length: ADDRESS_BYTES[family] / 4 }, (_, index) => buffer.readUInt32BE(index * 4));
  return formatAddress({ family, words });
}
