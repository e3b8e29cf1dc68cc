import { type Address, type Family, formatAddress, formatPrefix, type Prefix } from '../../core/ip.ts';
import { WordTable } from '../../core/word-table.ts';

/** Or-ed to the number of a tunnel endpoint: the route leads there, but is not as it should be otherwise. */
export const WRONG = 0x8000_0000;
const VIA = 0;
const MARK = 1;

/**
 * The routes of ours that the kernel holds. A million single addresses are two small numbers each; a tunnel endpoint is
 * a number from 1 on, with `WRONG` where the rest of the route is to be written again.
 */
export class HeldRoutes {
  readonly hosts4 = new WordTable({ keyWords: 1, columns: 2 });
  readonly hosts6 = new WordTable({ keyWords: 4, columns: 2 });
  readonly prefixes = new Map<string, { readonly prefix: Prefix; via: number }>();
  readonly #numbers = new Map<string, number>();
  readonly #vias: Address[] = [];
  #mark = 0;

  hosts(family: Family): WordTable {
    return family === 4 ? this.hosts4 : this.hosts6;
  }

  get size(): { readonly hosts: number; readonly prefixes: number } {
    return { hosts: this.hosts4.size + this.hosts6.size, prefixes: this.prefixes.size };
  }

  /** Every tunnel endpoint that was met since `clear`. */
  get vias(): readonly Address[] {
    return this.#vias;
  }

  clear(): void {
    this.hosts4.clear();
    this.hosts6.clear();
    this.prefixes.clear();
    this.#numbers.clear();
    this.#vias.length = 0;
  }

  number(via: Address): number {
    const text = formatAddress(via);
    const known = this.#numbers.get(text);
    if (known !== undefined) return known;
    this.#vias.push(via);
    this.#numbers.set(text, this.#vias.length);
    return this.#vias.length;
  }

  /** The tunnel endpoint of a number, with or without `WRONG`. */
  via(number: number): Address {
    return this.#vias[(number & ~WRONG) - 1] as Address;
  }

  /** Number of the tunnel endpoint, or undefined when there is no route. */
  getHost(family: Family, key: ArrayLike<number>): number | undefined {
    return this.hosts(family).lookup(key, VIA);
  }

  setHost(family: Family, key: ArrayLike<number>, via: number): void {
    const table = this.hosts(family);
    const slot = table.insert(key);
    table.set(slot, VIA, via);
    table.set(slot, MARK, this.#mark);
  }

  /** Starts a sweep: what is neither set nor touched from here on is listed by `untouched`. */
  beginSweep(): void {
    this.#mark = (this.#mark + 1) >>> 0;
  }

  touch(family: Family, key: ArrayLike<number>): void {
    const table = this.hosts(family);
    const slot = table.find(key);
    if (slot >= 0) table.set(slot, MARK, this.#mark);
  }

  /** Keys in a row. */
  untouched(family: Family): Uint32Array {
    const table = this.hosts(family);
    return collectKeys(table, { keyWords: table.keyWords, passes: (slot) => table.get(slot, MARK) !== this.#mark });
  }

  /** Identity or source changed: every route is to be written again. */
  allWrong(): void {
    for (const table of [this.hosts4, this.hosts6]) {
      table.forEach((slot) => {
        table.set(slot, VIA, (table.get(slot, VIA) | WRONG) >>> 0);
      });
    }
    for (const route of this.prefixes.values()) route.via = (route.via | WRONG) >>> 0;
  }

  setPrefix(prefix: Prefix, via: number): void {
    this.prefixes.set(formatPrefix(prefix), { prefix, via });
  }
}

/** The keys of a table that pass (all by default), in a row; at one moment, so that the table may change afterwards. */
export function collectKeys(
  table: Pick<WordTable, 'forEach' | 'keyAt' | 'size'>,
  options: { readonly keyWords: 1 | 4; readonly passes?: (slot: number, key: Uint32Array) => boolean },
): Uint32Array {
  const { keyWords, passes } = options;
  let keys = new Uint32Array((passes === undefined ? table.size : 64) * keyWords);
  let length = 0;
  table.forEach((slot) => {
    const key = table.keyAt(slot);
    if (passes !== undefined && !passes(slot, key)) return;
    if (length + keyWords > keys.length) {
      const larger = new Uint32Array(Math.max(keys.length * 2, 64 * keyWords));
      larger.set(keys);
      keys = larger;
    }
    keys.set(key, length);
    length += keyWords;
  });
  return keys.subarray(0, length);
}
