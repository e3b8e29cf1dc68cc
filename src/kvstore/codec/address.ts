import { type Address, addressBits, formatAddress, parseAddress, prefixOf } from '../../core/ip.ts';
import { BadValue, maskBits } from './json.ts';

/** An IPIdentityPair of `ip/v1` (specification 2.3), in the short form that a million of them need. */
export interface AddressEntry {
  readonly address: Address;
  /** Undefined for a plain address; a prefix otherwise, even if it is as long as the address. */
  readonly bits: number | undefined;
  readonly identity: number;
  readonly host: Address | undefined;
  readonly namespace: string;
  readonly pod: string;
}

interface Pair {
  IP?: unknown;
  Mask?: unknown;
  HostIP?: unknown;
  ID?: unknown;
  K8sNamespace?: unknown;
  K8sPodName?: unknown;
}

const KNOWN = ['IP', 'Mask', 'HostIP', 'ID', 'K8sNamespace', 'K8sPodName'] as const;

/** @throws BadValue. This is the hot path of the start: one parse, few checks. */
export function decodeAddress(key: string, value: Buffer, block: readonly [number, number]): AddressEntry {
  const pair = parsePair(value);
  const address = typeof pair.IP === 'string' ? parseAddress(pair.IP) : undefined;
  if (address === undefined) throw new BadValue(`IP ${JSON.stringify(pair.IP)} is no address`);
  const bits = pair.Mask === undefined || pair.Mask === null ? undefined : maskBits(asText(pair.Mask, 'Mask'), 'Mask');
  checkKey(key, pair.IP as string, address, bits);
  const { ID: id = 0 } = pair;
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0)
    throw new BadValue(`ID ${JSON.stringify(id)} is no identity`);
  if (id >= 256 && (id < block[0] || id > block[1]))
    throw new BadValue(`ID ${id} is outside of the cluster's block ${block[0]}-${block[1]}`);
  const hostText = asText(pair.HostIP, 'HostIP');
  const host = hostText === '' ? undefined : parseAddress(hostText);
  if (hostText !== '' && host === undefined) throw new BadValue(`HostIP ${JSON.stringify(hostText)} is no address`);
  return {
    address: bits === undefined ? address : prefixOf(address, bits),
    bits,
    // Host means ourselves; told by another cluster it is one of its nodes.
    identity: id === 1 ? 6 : id,
    host,
    namespace: asText(pair.K8sNamespace, 'K8sNamespace'),
    pod: asText(pair.K8sPodName, 'K8sPodName'),
  };
}

function parsePair(value: Buffer): Pair {
  let content: unknown;
  try {
    content = JSON.parse(value.toString('utf8'));
  } catch (error) {
    throw new BadValue(`not JSON: ${(error as Error).message.slice(0, 120)}`);
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw new BadValue('value is no object');
  const pair = content as Pair & Record<string, unknown>;
  if (pair.IP !== undefined) return pair;
  // Go takes field names in any case; only a value without the usual one pays for that.
  const lower = new Map(Object.entries(pair).map(([name, field]) => [name.toLowerCase(), field]));
  return Object.fromEntries(KNOWN.map((name) => [name, lower.get(name.toLowerCase())]));
}

function asText(value: unknown, name: string): string {
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') throw new BadValue(`${name} is no string`);
  return value;
}

function checkKey(key: string, text: string, address: Address, bits: number | undefined): void {
  if (bits !== undefined && bits > addressBits(address.family)) throw new BadValue('Mask is longer than the address');
  // The usual case costs one comparison: the key is the text as given, and the text is canonical.
  const expected = bits === undefined ? formatAddress(address) : `${formatAddress(prefixOf(address, bits))}/${bits}`;
  if (key !== expected)
    throw new BadValue(`key ${JSON.stringify(key)} is not the canonical form ${expected} of ${JSON.stringify(text)}`);
}
