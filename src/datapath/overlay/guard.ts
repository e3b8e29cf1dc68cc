import { type Address, type Family, formatAddress, type Prefix, type Words } from '../../core/ip.ts';

/**
 * Keeps outer packets out of the overlay: a route into it must never lead to a tunnel endpoint, to a node, or to this
 * machine. The model leaves such routes out; should it ever not, the packets would go in circles.
 */
export class LoopGuard {
  readonly #set4: ReadonlySet<number>;
  readonly #set6: ReadonlySet<string>;
  readonly #sorted: { readonly 4: readonly Address[]; readonly 6: readonly Address[] };

  constructor(addresses: Iterable<Address>) {
    const lists = { 4: [] as Address[], 6: [] as Address[] };
    const set4 = new Set<number>();
    const set6 = new Set<string>();
    for (const address of addresses) {
      lists[address.family].push(address);
      if (address.family === 4) set4.add(address.words[0] as number);
      else set6.add(address.words.join());
    }
    for (const list of [lists[4], lists[6]]) list.sort((a, b) => compare(a.words, b.words));
    this.#set4 = set4;
    this.#set6 = set6;
    this.#sorted = lists;
  }

  has(family: Family, words: ArrayLike<number>): boolean {
    if (family === 4) return this.#set4.has(words[0] as number);
    return this.#set6.size > 0 && this.#set6.has(Array.prototype.join.call(words));
  }

  /** An address that lies in the prefix and must not be routed into the overlay. */
  within(prefix: Prefix): string | undefined {
    const list = this.#sorted[prefix.family];
    let low = 0;
    let high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare((list[middle] as Address).words, prefix.words) < 0) low = middle + 1;
      else high = middle;
    }
    const next = list[low];
    return next !== undefined && compare(next.words, lastOf(prefix)) <= 0 ? formatAddress(next) : undefined;
  }
}

/** Disjoint or not, sorted by first address: tells whether an address lies in any of some prefixes. */
export class PrefixRanges {
  readonly #ranges: Record<Family, Range[]> = { 4: [], 6: [] };

  constructor(prefixes: Iterable<Prefix>) {
    for (const prefix of prefixes) this.#ranges[prefix.family].push({ first: prefix.words, last: lastOf(prefix) });
    for (const family of [4, 6] as const) this.#ranges[family] = merge(this.#ranges[family]);
  }

  empty(family: Family): boolean {
    return this.#ranges[family].length === 0;
  }

  has(family: Family, words: ArrayLike<number>): boolean {
    const ranges = this.#ranges[family];
    let low = 0;
    let high = ranges.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const range = ranges[middle] as Range;
      if (compare(words, range.first) < 0) high = middle - 1;
      else if (compare(words, range.last) > 0) low = middle + 1;
      else return true;
    }
    return false;
  }
}

interface Range {
  readonly first: Words;
  last: Words;
}

function merge(ranges: Range[]): Range[] {
  const merged: Range[] = [];
  for (const range of ranges.sort((a, b) => compare(a.first, b.first))) {
    const before = merged.at(-1);
    if (before === undefined || compare(range.first, before.last) > 0) merged.push(range);
    else if (compare(range.last, before.last) > 0) before.last = range.last;
  }
  return merged;
}

function compare(a: ArrayLike<number>, b: ArrayLike<number>): number {
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) return (a[i] as number) - (b[i] as number);
  }
  return 0;
}

function lastOf(prefix: Prefix): Words {
  return prefix.words.map((word, index) => {
    const fixed = Math.min(32, Math.max(0, prefix.bits - index * 32));
    return fixed === 32 ? word : (word | (0xffffffff >>> fixed)) >>> 0;
  });
}
