import { contains, formatPrefix, type Prefix } from '../../core/ip.ts';

export interface OwnedRange {
  readonly prefix: Prefix;
  /** Whose it is: ranges of one owner may overlap. */
  readonly owner: string;
  /** For people: `range 10.1.0.0/24 of node-1 in cluster-b`. */
  readonly what: string;
}

export interface RangeOverlap {
  readonly a: OwnedRange;
  readonly b: OwnedRange;
}

/** Pairs of ranges of different owners that share an address, up to a limit. */
export function findOverlaps(ranges: readonly OwnedRange[], limit: number): RangeOverlap[] {
  const sorted = [...ranges].sort((a, b) => comparePrefixes(a.prefix, b.prefix));
  const found: RangeOverlap[] = [];
  // Of two prefixes that overlap one holds the other, and comes before it.
  const around: OwnedRange[] = [];
  for (const range of sorted) {
    for (let last = around.at(-1); last !== undefined && !contains(last.prefix, range.prefix); last = around.at(-1))
      around.pop();
    for (const outer of around) {
      if (outer.owner === range.owner) continue;
      found.push({ a: outer, b: range });
      if (found.length >= limit) return found;
    }
    // One of the same owner and place says nothing new.
    const last = around.at(-1);
    if (last?.owner !== range.owner || formatPrefix(last.prefix) !== formatPrefix(range.prefix)) around.push(range);
  }
  return found;
}

function comparePrefixes(a: Prefix, b: Prefix): number {
  if (a.family !== b.family) return a.family - b.family;
  for (const [index, word] of a.words.entries()) {
    const other = b.words[index] ?? 0;
    if (word !== other) return word - other;
  }
  return a.bits - b.bits;
}
