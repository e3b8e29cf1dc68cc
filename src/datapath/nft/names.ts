/** The one table of ours, family `inet`. Nothing outside of it is ever touched. */
export const TABLE = 'mesh_agent';

/** Class numbers have this bit; identities never do, so that one kind cannot be taken for the other. */
export const CLASS_BIT = 0x8000_0000;
const MIRRORED = 127 * 256;
const BEHIND = 0xff00_0000;

/**
 * The number of the n-th class. Its four bytes read the same from both ends: nft turns the bytes of a mark around in a map
 * of ranges and leaves them in any other, and this is its own business. (From the 32,512th class on they do not, and such
 * maps are taken to be turned around.)
 */
export function classNumber(n: number): number {
  if (n >= MIRRORED) return BEHIND + n - MIRRORED;
  const outer = 0x80 + (n >>> 8);
  const inner = n & 255;
  return ((outer << 24) | (inner << 16) | (inner << 8) | outer) >>> 0;
}

/** Which class a number is of. */
export function classOfNumber(number: number): number {
  if (number >= BEHIND) return number - BEHIND + MIRRORED;
  return (((number >>> 24) - 0x80) << 8) | ((number >>> 16) & 255);
}

/**
 * Bits of the connection label that are ours, all in its last byte. `ingress` and `egress` tell how a connection
 * was judged and stay; `passed` opens the short way, `passedOut` also for packets that leave before any answer came;
 * `withdrawn` takes their place when the policy is withdrawn. `overlay`: judged by the identity that the overlay brought.
 */
export const LABEL = {
  withdrawn: 120,
  ingress: 121,
  egress: 122,
  overlay: 123,
  passed: 124,
  passedOut: 125,
} as const;

/** Mark of a packet that the overlay brings: identities below are reserved and not believed. */
export const FIRST_BELIEVED = 256;

/** An identity as a mark. What would pass for a class number becomes 0, the identity that nobody knows. */
export function identityMark(identity: number): number {
  return identity < CLASS_BIT ? identity : 0;
}

/**
 * Single addresses are spread over so many maps by their last bits. The kernel lists a map in pieces and walks it from its
 * start for each: a million addresses in one map take 28 s to read, in 32 maps 3 s.
 */
export const SHARDS: readonly number[] = Array.from({ length: 32 }, (_, shard) => shard);

/** The shard of an address, given as its last word. */
export function shardOf(lastWord: number): number {
  return lastWord & (SHARDS.length - 1);
}

export function hostMap(family: 4 | 6, shard: number): string {
  return `host${family}_${shard}`;
}
