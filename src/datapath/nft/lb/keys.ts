import { byteKey, markKey } from '../../fields.ts';
import { ADDRESS_BYTES, type FrontendBytes } from '../../lb/keys.ts';

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
