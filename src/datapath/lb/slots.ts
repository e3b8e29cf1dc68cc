import { fingerprint, stir } from '../../core/fingerprint.ts';

/** A target in the bytes of the kernel, and its weight. */
export interface Share {
  readonly endpoint: string;
  readonly weight: number;
}

/**
 * Which target each of `size` slots leads to, by weight. Slots that are right stay as they are (`held`): one target more or
 * less changes its own share of the slots alone. There are at least as many slots as targets.
 */
export function assignSlots(size: number, shares: readonly Share[], held: readonly (string | undefined)[]): string[] {
  const left = quotas(size, shares, held);
  const slots = new Array<string | undefined>(size);
  for (let slot = 0; slot < size; slot++) {
    const endpoint = held[slot];
    const quota = endpoint === undefined ? 0 : (left.get(endpoint) ?? 0);
    if (endpoint === undefined || quota === 0) continue;
    left.set(endpoint, quota - 1);
    slots[slot] = endpoint;
  }
  const rest = [...left].filter(([, quota]) => quota > 0);
  let next = 0;
  return Array.from(slots, (slot) => {
    if (slot !== undefined) return slot;
    const entry = rest[next] as [string, number];
    if (--entry[1] === 0) next++;
    return entry[0];
  });
}

/**
 * The same for clients that stay, by rendezvous hashing with weights: each slot goes to the target that bids most for it. A
 * target that leaves moves its own clients alone and finds them again when it comes back, on every machine alike.
 */
export function stickySlots(size: number, shares: readonly Share[]): string[] {
  const bidders = shares.map(({ endpoint, weight }) => ({ endpoint, weight, seed: fingerprint(endpoint) }));
  return Array.from({ length: size }, (_, slot) => {
    let best = '';
    let highest = Number.NEGATIVE_INFINITY;
    const salt = Math.imul(slot + 1, 0x9e3779b1);
    for (const { endpoint, weight, seed } of bidders) {
      const bid = -weight / Math.log((stir(seed ^ salt) + 1) / 2 ** 32 - 2 ** -33);
      if (bid <= highest) continue;
      highest = bid;
      best = endpoint;
    }
    return best;
  });
}

/** How many slots each gets: its exact share rounded down, and what is left over to those who lost most by it, and have it already. */
function quotas(size: number, shares: readonly Share[], held: readonly (string | undefined)[]): Map<string, number> {
  const total = shares.reduce((sum, { weight }) => sum + weight, 0);
  const counts = new Map<string, number>();
  for (const endpoint of held) if (endpoint !== undefined) counts.set(endpoint, (counts.get(endpoint) ?? 0) + 1);
  const wanted = shares.map(({ endpoint, weight }, order) => {
    const exact = (size * weight) / total;
    const base = Math.max(1, Math.floor(exact));
    return { endpoint, base, lost: exact - base, has: (counts.get(endpoint) ?? 0) > base, order };
  });
  let over = size - wanted.reduce((sum, { base }) => sum + base, 0);
  const quota = new Map(wanted.map(({ endpoint, base }) => [endpoint, base]));
  if (over > 0) wanted.sort((a, b) => b.lost - a.lost || Number(b.has) - Number(a.has) || a.order - b.order);
  for (let index = 0; over > 0; index = (index + 1) % wanted.length, over--) add(quota, wanted[index], 1);
  // So unequal that a slot for each was too many: the largest give.
  if (over < 0) wanted.sort((a, b) => b.base - a.base || a.order - b.order);
  for (let index = 0; over < 0; index = (index + 1) % wanted.length) {
    if ((quota.get(wanted[index]?.endpoint ?? '') ?? 1) <= 1) continue;
    add(quota, wanted[index], -1);
    over++;
  }
  return quota;
}

function add(quota: Map<string, number>, to: { readonly endpoint: string } | undefined, by: number): void {
  if (to !== undefined) quota.set(to.endpoint, (quota.get(to.endpoint) ?? 0) + by);
}
