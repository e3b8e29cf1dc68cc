/** Two ways to do the same, measured in turn in many short slices of one run: what drifts on the machine meets both. */

const PAIRS = 41;

/** Length of one slice, in ms. */
export const SLICE_MS = 120;

/** Connection tracking and nothing else, for `nft -f`: what ours is measured against. */
export const TRACKING = `
table inet tracking {
  chain enter { type filter hook prerouting priority -160; policy accept; ct state established accept; }
  chain leave { type filter hook postrouting priority 310; policy accept; ct state established accept; }
}`;

/** One slice; its figure is a rate: more is better. */
type Measure = () => Promise<number>;

/** The share of the second way's figure in the first's, in percent. */
export async function compareInPairs(base: Measure, ours: Measure): Promise<number> {
  const ways = [
    { measure: base, figures: [] as number[] },
    { measure: ours, figures: [] as number[] },
  ] as const;
  for (const { measure } of ways) await measure();
  for (let pair = 0; pair < PAIRS; pair++) {
    // Who comes first takes turns, for what drifts within a pair.
    for (const { measure, figures } of pair % 2 === 0 ? ways : ways.toReversed()) figures.push(await measure());
  }
  return (undisturbed(ways[1].figures) / undisturbed(ways[0].figures)) * 100;
}

/** The median of the better half: what else runs on the machine only ever makes a slice slower. */
function undisturbed(figures: readonly number[]): number {
  return [...figures].sort((a, b) => b - a)[PAIRS >> 2] ?? 0;
}
