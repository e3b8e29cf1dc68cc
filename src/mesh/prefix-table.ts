import { type Address, type Family, formatPrefix, type Prefix, prefixOf } from '../core/ip.ts';
import type { Claim } from './address-table.ts';
import { isOlder } from './generation.ts';
import type { Origin, Origins } from './origin.ts';
import { Tallies } from './tallies.ts';
import type { TunnelEndpoints } from './tunnel-endpoints.ts';

export interface PrefixClaim extends Claim {
  readonly prefix: Prefix;
}

export interface PrefixTableOptions {
  readonly origins: Origins;
  readonly endpoints: TunnelEndpoints;
  /** The strongest claim of a prefix, given as text, is another one, or none is left. */
  readonly changed: (text: string) => void;
}

/** Prefixes of both families with all claims on each, the strongest first. They are few compared with single addresses. */
export class PrefixTable {
  readonly #options: PrefixTableOptions;
  readonly #claims = new Map<string, readonly PrefixClaim[]>();
  readonly #disputed = new Set<string>();
  readonly #tallies = new Tallies();
  /** How many prefixes of each length there are, and the lengths in use, longest first, when they were asked for. */
  readonly #lengths: Record<Family, Map<number, number>> = { 4: new Map(), 6: new Map() };
  #sorted: Partial<Record<Family, readonly number[]>> = {};

  constructor(options: PrefixTableOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#claims.size;
  }

  countOf(origin: Origin): number {
    return this.#tallies.of(origin.index);
  }

  /** All prefixes, each with its claims, the strongest first. */
  values(): Iterable<readonly PrefixClaim[]> {
    return this.#claims.values();
  }

  claims(prefix: Prefix): readonly PrefixClaim[] {
    return this.#claims.get(formatPrefix(prefix)) ?? [];
  }

  /** Prefixes that more than one cluster claims. */
  disputed(limit: number): (readonly PrefixClaim[])[] {
    const found: (readonly PrefixClaim[])[] = [];
    for (const text of this.#disputed) {
      if (found.length >= limit) break;
      found.push(this.#claims.get(text) ?? []);
    }
    return found;
  }

  claim(claim: PrefixClaim): void {
    const text = formatPrefix(claim.prefix);
    const others = this.#without(text, claim.origin);
    this.#options.endpoints.retain(claim.host);
    this.#settle(text, [...others, claim]);
  }

  keep(prefix: Prefix, origin: number, generation: number): void {
    const held = this.claims(prefix).find((claim) => claim.origin === origin);
    if (held !== undefined) this.claim({ ...held, generation });
  }

  withdraw(prefix: Prefix, origin: number): void {
    this.#withdraw(formatPrefix(prefix), origin);
  }

  /** Withdraws the claims of an origin that are older than a generation, step by step; all of them without one. */
  *sweeping(origin: number, generation: number | undefined): Generator<void> {
    if (!this.#tallies.hasOthers(origin, generation)) return;
    let step = 0;
    for (const [text, claims] of this.#claims) {
      const claim = claims.find((each) => each.origin === origin);
      if (claim !== undefined && (generation === undefined || isOlder(claim.generation, generation)))
        this.#withdraw(text, origin);
      if (++step % 16 === 0) yield;
    }
  }

  /** The claims on the longest prefix that holds an address. */
  lookup(address: Address): readonly PrefixClaim[] | undefined {
    const { family } = address;
    this.#sorted[family] ??= [...this.#lengths[family].keys()].sort((a, b) => b - a);
    for (const bits of this.#sorted[family] ?? []) {
      const found = this.#claims.get(formatPrefix(prefixOf(address, bits)));
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #withdraw(text: string, origin: number): void {
    const claims = this.#claims.get(text);
    const gone = claims?.find((claim) => claim.origin === origin);
    if (claims === undefined || gone === undefined) return;
    this.#settle(
      text,
      claims.filter((claim) => claim !== gone),
    );
  }

  #without(text: string, origin: number): readonly PrefixClaim[] {
    return (this.#claims.get(text) ?? []).filter((claim) => claim.origin !== origin);
  }

  #settle(text: string, claims: PrefixClaim[]): void {
    const { origins, endpoints, changed } = this.#options;
    const before = this.#claims.get(text) ?? [];
    claims.sort((a, b) => origins.compare(a.origin, b.origin));
    const [held, strongest] = [before[0], claims[0]];
    if (strongest === undefined) this.#claims.delete(text);
    else this.#claims.set(text, claims);
    for (const claim of claims) if (!before.includes(claim)) this.#tallies.add(claim);
    for (const claim of before) {
      if (claims.includes(claim)) continue;
      this.#tallies.drop(claim);
      endpoints.release(claim.host);
    }
    if (held === undefined && strongest !== undefined) this.#countLength(strongest.prefix, 1);
    if (held !== undefined && strongest === undefined) this.#countLength(held.prefix, -1);
    if (claims.length > 1 && origins.areDisputed(claims.map(({ origin }) => origin))) this.#disputed.add(text);
    else this.#disputed.delete(text);
    if (held?.identity !== strongest?.identity || held?.host !== strongest?.host) changed(text);
  }

  #countLength({ family, bits }: Prefix, by: number): void {
    const lengths = this.#lengths[family];
    const count = (lengths.get(bits) ?? 0) + by;
    if (count === 0) lengths.delete(bits);
    else lengths.set(bits, count);
    if (count === 0 || (count === 1 && by === 1)) delete this.#sorted[family];
  }
}
