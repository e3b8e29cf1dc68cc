import { type Address, type Prefix, prefixOf, type Words } from '../core/ip.ts';

/** Prefixes of one family and length. */
interface Level<R> {
  readonly family: 4 | 6;
  readonly bits: number;
  readonly by: Map<number | string, R>;
}

/** Prefixes by length, longest first: asked per address and length, not per pair, since there may be thousands of both. */
export class RouteIndex<R extends { readonly prefix: Prefix }> {
  readonly #levels: Readonly<Record<4 | 6, readonly Level<R>[]>>;

  constructor(routes: Iterable<R>) {
    const levels = new Map<string, Level<R>>();
    for (const route of routes) {
      const { family, bits, words } = route.prefix;
      const name = `${family} ${bits}`;
      const level = levels.get(name) ?? { family, bits, by: new Map<number | string, R>() };
      levels.set(name, level);
      level.by.set(keyOf(family, words), route);
    }
    const sorted = [...levels.values()].sort((a, b) => b.bits - a.bits);
    this.#levels = { 4: sorted.filter(({ family }) => family === 4), 6: sorted.filter(({ family }) => family === 6) };
  }

  /** The longest prefix that holds the address. */
  covering(address: Address): R | undefined {
    for (const level of this.#levels[address.family]) {
      const found = level.by.get(keyIn(level, address));
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Every prefix that holds one of the addresses, with that address; a prefix may come more than once. */
  *holders(addresses: readonly Address[]): Iterable<R & { readonly address: Address }> {
    for (const address of addresses) {
      for (const level of this.#levels[address.family]) {
        const found = level.by.get(keyIn(level, address));
        if (found !== undefined) yield { ...found, address };
      }
    }
  }
}

function keyIn({ family, bits }: { readonly family: 4 | 6; readonly bits: number }, address: Address): number | string {
  if (family === 6) return keyOf(6, prefixOf(address, bits).words);
  return bits === 0 ? 0 : ((address.words[0] as number) & (0xffff_ffff << (32 - bits))) >>> 0;
}

function keyOf(family: 4 | 6, words: Words): number | string {
  return family === 4 ? (words[0] as number) : words.join(' ');
}
