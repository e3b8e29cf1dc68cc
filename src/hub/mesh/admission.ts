import { formatAddress, type Prefix } from '../../core/ip.ts';
import { decodeAddress } from '../../kvstore/codec/address.ts';
import { parseObject, text, uint } from '../../kvstore/codec/json.ts';
import { decodeNodeValue, type Node } from '../../kvstore/codec/node.ts';
import type { CacheKind } from './kinds.ts';
import type { OwnedAddresses } from './owned-addresses.ts';

/**
 * Why a value is not cached. `identity`: outside of the cluster's block. `address`: it belongs to another cluster's node or
 * to the hub. `form`: a key that nobody could have written in good faith. `size`, `count`: beyond what one cluster may have.
 */
export type Refusal = 'identity' | 'address' | 'form' | 'size' | 'count';
export const REFUSALS: readonly Refusal[] = ['identity', 'address', 'form', 'size', 'count'];

export const MAX_KEY_BYTES = 512;
const SMALL = 64 << 10;
/** Addresses and ranges of one node. */
const MAX_PER_NODE = 64;
/** etcd takes requests of 1.5 MiB at most. */
const LARGE = 1 << 20;
const MAX_VALUE_BYTES: Record<CacheKind, number> = {
  identities: SMALL,
  nodes: SMALL,
  ip: SMALL,
  services: LARGE,
  serviceexports: SMALL,
  endpointslices: LARGE,
};

/** What one cluster says, as far as it must be understood to keep it within the cluster. */
export interface Admission {
  /** Undefined: the value is copied as it is. What cannot be read passes: its readers refuse it. */
  check(kind: CacheKind, key: string, value: Buffer): Refusal | undefined;
  /** The key is gone at the source. */
  gone(kind: CacheKind, key: string): void;
}

export interface AdmissionOptions {
  readonly cluster: string;
  readonly block: readonly [first: number, last: number];
  readonly addresses: OwnedAddresses;
  /** The ranges of a node; none when it is gone or cannot be read. */
  readonly onRanges: (node: string, ranges: readonly Prefix[]) => void;
  /** Whether a node encrypts; not when it is gone or cannot be read. */
  readonly onEncryption: (node: string, encrypts: boolean) => void;
}

export function openAdmission(options: AdmissionOptions): Admission {
  const { cluster, block, addresses, onRanges, onEncryption } = options;
  const inBlock = (id: number): boolean => id >= block[0] && id <= block[1];
  const checkNode = (key: string, value: Buffer): Refusal | undefined => {
    const node = readNode(value);
    const ranges = node === undefined ? [] : [...node.ranges4, ...node.ranges6];
    const own = node === undefined ? [] : addressesOf(node);
    if (own.length > MAX_PER_NODE || ranges.length > MAX_PER_NODE) return 'size';
    if (!addresses.put(cluster, key, own)) return 'count';
    onRanges(key, ranges);
    onEncryption(key, node !== undefined && encrypts(value));
    const taken = own.some((address) => addresses.foreignOwner(address, cluster) !== undefined);
    return taken || ranges.some((range) => addresses.ownsAll(range)) ? 'address' : undefined;
  };
  return {
    check(kind, key, value) {
      if (value.length > MAX_VALUE_BYTES[kind] || key.length > MAX_KEY_BYTES) return 'size';
      if (!isPlain(key)) return 'form';
      if (kind === 'identities') return /^[1-9][0-9]{0,9}$/.test(key) && inBlock(Number(key)) ? undefined : 'identity';
      if (kind === 'nodes') return checkNode(key, value);
      if (kind !== 'ip') return undefined;
      if (addresses.foreignOwner(key, cluster) !== undefined) return 'address';
      return claimsForeignIdentity(key, value, block) ? 'identity' : undefined;
    },
    gone(kind, key) {
      if (kind !== 'nodes') return;
      addresses.put(cluster, key, []);
      onRanges(key, []);
      onEncryption(key, false);
    },
  };
}

/** No component that a path would lose, and nothing that came out of broken UTF-8: two keys could become one. */
function isPlain(key: string): boolean {
  if (key === '' || key.includes('\ufffd') || /\p{Cc}/u.test(key)) return false;
  return key.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}

/** Agents up to 1.16 believe every number (kvstore specification 2.3). */
function claimsForeignIdentity(key: string, value: Buffer, block: readonly [number, number]): boolean {
  try {
    decodeAddress(key, value, block);
    return false;
  } catch {
    return numberIsForeign(value, block);
  }
}

function numberIsForeign(value: Buffer, [first, last]: readonly [number, number]): boolean {
  try {
    const id = uint(parseObject(value), 'ID');
    return id >= 256 && (id < first || id > last);
  } catch {
    // No reader gets a number out of it.
    return false;
  }
}

function readNode(value: Buffer): Node | undefined {
  try {
    return decodeNodeValue(value);
  } catch {
    return undefined;
  }
}

/** By IPsec, or by WireGuard (kvstore specification 9.4). */
function encrypts(value: Buffer): boolean {
  try {
    const fields = parseObject(value);
    return uint(fields, 'EncryptionKey') !== 0 || text(fields, 'WireguardPubKey') !== '';
  } catch {
    return false;
  }
}

function addressesOf(node: Node): string[] {
  const all = [...node.addresses.map(({ address }) => address), ...node.healthAddresses, ...node.ingressAddresses];
  return [...new Set(all.map(formatAddress))];
}
