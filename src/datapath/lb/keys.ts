import { formatAddress, parseAddress } from '../../core/ip.ts';
import type { FrontendKey, ServiceTarget } from '../../service/result.ts';
import { addressKey, byteKey, portKey } from '../fields.ts';

/** Bytes as a latin1 string, as everywhere in this folder: the key of a frontend in the kernel's maps. */
export type FrontendBytes = string;

export const ADDRESS_BYTES = { 4: 4, 6: 16 } as const;

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
