/** The one table of ours, family `inet`. Nothing outside of it is ever touched. */
export const TABLE = 'mesh_agent';

/** Class numbers have this bit; identities never do, so that one kind cannot be taken for the other. */
export const CLASS_BIT = 0x8000_0000;
/** The class of every identity without a row of its own. */
export const UNKNOWN_CLASS = CLASS_BIT;

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
