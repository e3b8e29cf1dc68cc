import { type Address, type Family, formatAddress, type Prefix, prefixOf } from '../../core/ip.ts';
import type { KernelRoute } from './routes.ts';

/** Tunnel endpoints by the routes that the kernel holds; the longest prefix counts. */
export class TunnelEndpoints {
  readonly #lengths: Record<Family, Map<number, Map<string, string>>> = { 4: new Map(), 6: new Map() };
  #order: Record<Family, number[]> = { 4: [], 6: [] };

  add(route: Pick<KernelRoute, 'prefix' | 'via'>): void {
    const { family, bits, words } = route.prefix;
    const lengths = this.#lengths[family];
    let routes = lengths.get(bits);
    if (routes === undefined) {
      routes = new Map();
      lengths.set(bits, routes);
      this.#order[family] = [...lengths.keys()].sort((a, b) => b - a);
    }
    routes.set(words.join(), formatAddress(route.via));
  }

  get size(): number {
    let size = 0;
    for (const family of [4, 6] as const) for (const routes of this.#lengths[family].values()) size += routes.size;
    return size;
  }

  /** The tunnel endpoint of an address or of a whole prefix, or undefined. */
  find(prefix: Prefix): string | undefined {
    for (const bits of this.#order[prefix.family]) {
      if (bits > prefix.bits) continue;
      const cut: Address = bits === prefix.bits ? prefix : prefixOf(prefix, bits);
      const via = this.#lengths[prefix.family].get(bits)?.get(cut.words.join());
      if (via !== undefined) return via;
    }
    return undefined;
  }
}
