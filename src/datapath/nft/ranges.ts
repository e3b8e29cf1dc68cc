import type { Prefix } from '../../core/ip.ts';

/** An inclusive range of addresses as numbers, and its identity. */
export interface AddressRange {
  readonly first: bigint;
  readonly last: bigint;
  readonly value: number;
}

export function toBigint(words: ArrayLike<number>): bigint {
  return Array.from(words).reduce((all, word) => (all << 32n) | BigInt(word >>> 0), 0n);
}

/** The words of an address, most significant first. */
export function toWords(value: bigint, count: 1 | 4): number[] {
  return Array.from({ length: count }, (_, i) => Number((value >> BigInt(32 * (count - 1 - i))) & 0xffffffffn));
}

/**
 * Nested prefixes of one family as disjoint ranges in which the longest prefix has won: interval maps refuse overlaps.
 * Neighbours of one identity become one range. Of equal prefixes the last one counts.
 */
export function flatten(prefixes: Iterable<{ readonly prefix: Prefix; readonly identity: number }>): AddressRange[] {
  const unique = new Map<string, AddressRange>();
  for (const { prefix, identity } of prefixes) {
    const first = toBigint(prefix.words);
    const last = first + (1n << BigInt(prefix.words.length * 32 - prefix.bits)) - 1n;
    unique.set(`${first}-${last}`, { first, last, value: identity });
  }
  const sorted = [...unique.values()].sort((a, b) => compare(a.first, b.first) || compare(b.last, a.last));
  const result: AddressRange[] = [];
  const open: AddressRange[] = [];
  let next = 0n;
  const emit = (last: bigint, value: number): void => {
    if (last < next) return;
    const previous = result.at(-1);
    if (previous !== undefined && previous.value === value && previous.last + 1n === next)
      result[result.length - 1] = { ...previous, last };
    else result.push({ first: next, last, value });
    next = last + 1n;
  };
  const closeBefore = (start: bigint): void => {
    for (let top = open.at(-1); top !== undefined && top.last < start; top = open.at(-1)) {
      emit(top.last, top.value);
      open.pop();
    }
  };
  for (const range of sorted) {
    closeBefore(range.first);
    const outer = open.at(-1);
    if (outer !== undefined && range.first > 0n) emit(range.first - 1n, outer.value);
    next = range.first;
    open.push(range);
  }
  for (let top = open.pop(); top !== undefined; top = open.pop()) emit(top.last, top.value);
  return result;
}

/** The fewest prefixes that make up a range: `[first word..., bits]`. */
export function rangePrefixes(range: AddressRange, family: 4 | 6): Prefix[] {
  const width = family === 4 ? 32 : 128;
  const result: Prefix[] = [];
  for (let at = range.first; at <= range.last; ) {
    let size = 0;
    while (size < width && (at >> BigInt(size)) % 2n === 0n && at + (1n << BigInt(size + 1)) - 1n <= range.last) size++;
    result.push({ family, words: toWords(at, family === 4 ? 1 : 4), bits: width - size });
    at += 1n << BigInt(size);
  }
  return result;
}

/**
 * An interval map tells starts and ends as elements of their own: the ranges that they make. A start without an end runs
 * to the last address.
 */
export function rangesOfPoints(
  points: readonly { readonly at: bigint; readonly end: boolean; readonly value: number }[],
  words: 1 | 4,
): AddressRange[] {
  // Of an end and a start at one address the end comes first: it belongs to the range before.
  const sorted = [...points].sort((a, b) => compare(a.at, b.at) || Number(b.end) - Number(a.end));
  const ranges: AddressRange[] = [];
  for (const [index, point] of sorted.entries()) {
    if (point.end) continue;
    const next = sorted[index + 1];
    const last = next === undefined ? (1n << BigInt(words * 32)) - 1n : next.at - 1n;
    ranges.push({ first: point.at, last, value: point.value });
  }
  return ranges;
}

/** The range that an address lies in, of ranges in order. */
export function findRange(ranges: readonly AddressRange[], at: bigint): AddressRange | undefined {
  let low = 0;
  let high = ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const range = ranges[middle] as AddressRange;
    if (at < range.first) high = middle - 1;
    else if (at > range.last) low = middle + 1;
    else return range;
  }
  return undefined;
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
