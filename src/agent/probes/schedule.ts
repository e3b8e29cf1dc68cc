/** Addresses that are probed in a second, in the long run: 0.1 to 0.3 % of a core, however many nodes there are. */
const PER_SECOND = 2;
/** Of those that failed, in a second. */
const DOUBTFUL_PER_SECOND = 1;

/** How long a round over so many addresses takes: the interval, or longer where there are many. */
export function roundMs(addresses: number, intervalMs: number): number {
  return Math.max(intervalMs, (addresses * 1000) / PER_SECOND);
}

/**
 * What is probed once more in each interval while a round takes longer than that: what failed the last time, so that one lost
 * packet and a node that is gone are soon told apart, and a node that comes back is seen. Not many: silent ones cost most.
 */
export function doubtful<T>(
  all: readonly T[],
  { failed, intervalMs }: { readonly failed: (each: T) => boolean; readonly intervalMs: number },
): T[] {
  if (roundMs(all.length, intervalMs) <= intervalMs) return [];
  return all.filter(failed).slice(0, Math.floor((DOUBTFUL_PER_SECOND * intervalMs) / 1000));
}
