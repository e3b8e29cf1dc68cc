import {
  type Address,
  addressBits,
  contains,
  type Family,
  formatPrefix,
  type Prefix,
  prefixOf,
} from '../../core/ip.ts';

interface Entry {
  readonly prefix: Prefix;
  readonly start: bigint;
  readonly owners: Set<string>;
}

/**
 * Prefixes with their owners, asked for overlaps. Two prefixes overlap only when one holds the other: what holds a
 * prefix is looked up by each length in use, what it holds lies behind its start in the order of addresses.
 */
export class PrefixIndex {
  readonly #entries = new Map<string, Entry>();
  readonly #sorted: Record<Family, Entry[]> = { 4: [], 6: [] };
  readonly #lengths: Record<Family, Map<number, number>> = { 4: new Map(), 6: new Map() };

  get size(): number {
    return this.#entries.size;
  }

  add(prefix: Prefix, owner: string): void {
    const text = formatPrefix(prefix);
    const known = this.#entries.get(text);
    if (known !== undefined) {
      known.owners.add(owner);
      return;
    }
    const entry = { prefix, start: toNumber(prefix), owners: new Set([owner]) };
    this.#entries.set(text, entry);
    const sorted = this.#sorted[prefix.family];
    sorted.splice(firstFrom(sorted, entry.start), 0, entry);
    this.#count(prefix, 1);
  }

  remove(prefix: Prefix, owner: string): void {
    const text = formatPrefix(prefix);
    const entry = this.#entries.get(text);
    if (entry === undefined || !entry.owners.delete(owner) || entry.owners.size > 0) return;
    this.#entries.delete(text);
    const sorted = this.#sorted[prefix.family];
    const at = sorted.indexOf(entry, firstFrom(sorted, entry.start));
    if (at >= 0) sorted.splice(at, 1);
    this.#count(prefix, -1);
  }

  /** A prefix that shares an address with this one, and an owner of it that `passes`; undefined when there is none. */
  overlapping(
    prefix: Prefix,
    passes: (owner: string) => boolean = () => true,
  ): { readonly prefix: Prefix; readonly owner: string } | undefined {
    const found = (entry: Entry | undefined) => {
      if (entry === undefined) return undefined;
      const owner = [...entry.owners].find(passes);
      return owner === undefined ? undefined : { prefix: entry.prefix, owner };
    };
    for (const bits of this.#lengths[prefix.family].keys()) {
      if (bits > prefix.bits) continue;
      const outer = found(this.#entries.get(formatPrefix(prefixOf(prefix, bits))));
      if (outer !== undefined) return outer;
    }
    const sorted = this.#sorted[prefix.family];
    for (let at = firstFrom(sorted, toNumber(prefix)); at < sorted.length; at++) {
      const entry = sorted[at];
      if (entry === undefined || !contains(prefix, entry.prefix)) break;
      const inner = found(entry);
      if (inner !== undefined) return inner;
    }
    return undefined;
  }

  /** The lowest free prefix of a length within a pool, or undefined when the pool is exhausted. */
  firstFree(pool: Prefix, bits: number): Prefix | undefined {
    const width = addressBits(pool.family);
    const step = 1n << BigInt(width - bits);
    const end = toNumber(pool) + (1n << BigInt(width - pool.bits));
    const sorted = this.#sorted[pool.family];
    let candidate = toNumber(pool);
    // What holds the pool as a whole leaves nothing of it.
    for (const length of this.#lengths[pool.family].keys())
      if (length <= pool.bits && this.#entries.has(formatPrefix(prefixOf(pool, length)))) return undefined;
    for (let at = firstFrom(sorted, candidate); at < sorted.length; at++) {
      const entry = sorted[at];
      if (entry === undefined || entry.start >= candidate + step) break;
      const entryEnd = entry.start + (1n << BigInt(width - entry.prefix.bits));
      if (entryEnd > candidate) candidate = ((entryEnd + step - 1n) / step) * step;
    }
    return candidate + step <= end ? { ...fromNumber(candidate, pool.family), bits } : undefined;
  }

  #count({ family, bits }: Prefix, by: number): void {
    const lengths = this.#lengths[family];
    const count = (lengths.get(bits) ?? 0) + by;
    if (count === 0) lengths.delete(bits);
    else lengths.set(bits, count);
  }
}

export function wholeAddress(address: Address): Prefix {
  return { family: address.family, words: address.words, bits: addressBits(address.family) };
}

function toNumber({ words }: Address): bigint {
  return words.reduce((number, word) => (number << 32n) | BigInt(word), 0n);
}

function fromNumber(number: bigint, family: Family): Address {
  if (family === 4) return { family, words: [Number(number)] };
  return { family, words: [96n, 64n, 32n, 0n].map((shift) => Number((number >> shift) & 0xffff_ffffn)) };
}

/** The first place whose start is not below. */
function firstFrom(sorted: readonly Entry[], start: bigint): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle]?.start ?? 0n) < start) low = middle + 1;
    else high = middle;
  }
  return low;
}
