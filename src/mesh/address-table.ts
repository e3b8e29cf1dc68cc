import type { NumericIdentity } from '../core/identity.ts';
import { identity } from '../core/identity.ts';
import { WordTable } from '../core/word-table.ts';
import { isOlder } from './generation.ts';
import type { Origin, Origins } from './origin.ts';
import { Tallies } from './tallies.ts';
import type { TunnelEndpoints } from './tunnel-endpoints.ts';

/** What one origin says of an address. `host` is a number of the tunnel endpoints; 0 is none. */
export interface Claim {
  readonly identity: NumericIdentity;
  readonly host: number;
  readonly origin: number;
  readonly generation: number;
}

export interface AddressTableOptions {
  readonly keyWords: 1 | 4;
  readonly origins: Origins;
  readonly endpoints: TunnelEndpoints;
  /** The strongest claim of an address is another one, or none is left. The key is only lent. */
  readonly changed: (key: ArrayLike<number>) => void;
}

const IDENTITY = 0;
const HOST = 1;
const META = 2;
const ORIGIN_MASK = 0xfff;
const GENERATION_SHIFT = 12;
const GENERATION_MASK = 0xffff;
/** Weaker claims on this address are kept in the tables of the weaker ones. */
const CONTESTED = 0x8000_0000;
/** In the second table: the claims are of more than one cluster. */
const DISPUTED = 0x4000_0000;
/** Withdrawals between two points where a sweep may be interrupted. */
const STEP = 64;

/**
 * Single addresses of one family. The strongest claim of each is in one typed table, the second one of those that have
 * several in another, and so on. When the strongest goes, the next one takes its place, whoever came first: the outcome
 * depends on present facts alone.
 */
export class AddressTable {
  readonly table: WordTable;
  readonly #weaker: WordTable[] = [];
  readonly #options: AddressTableOptions;
  readonly #tallies = new Tallies();
  #disputed = 0;

  constructor(options: AddressTableOptions) {
    this.#options = options;
    this.table = new WordTable({ keyWords: options.keyWords, columns: 3 });
  }

  countOf(origin: Origin): number {
    return this.#tallies.of(origin.index);
  }

  /** Addresses that more than one cluster claims. */
  get disputed(): number {
    return this.#disputed;
  }

  claim(key: ArrayLike<number>, claim: Claim): void {
    const { table } = this;
    const slot = table.find(key);
    this.#tallies.add(claim);
    this.#options.endpoints.retain(claim.host);
    if (slot < 0) {
      write(table, table.insert(key), claim, 0);
      this.#options.changed(key);
      return;
    }
    if ((table.get(slot, META) & ORIGIN_MASK) !== claim.origin) {
      this.#contest(key, claim);
      return;
    }
    const held = read(table, slot);
    this.#forget(held);
    write(table, slot, claim, table.get(slot, META) & CONTESTED);
    if (held.identity !== claim.identity || held.host !== claim.host) this.#options.changed(key);
  }

  /** Says that what an origin claims of an address was listed again, whatever it is. */
  keep(key: ArrayLike<number>, origin: number, generation: number): void {
    for (const table of [this.table, ...this.#weaker]) {
      const slot = table.find(key);
      if (slot < 0) return;
      const held = read(table, slot);
      if (held.origin !== origin) continue;
      const kept = { ...held, generation };
      this.#tallies.drop(held);
      this.#tallies.add(kept);
      write(table, slot, kept, table.get(slot, META) & (CONTESTED | DISPUTED));
      return;
    }
  }

  /** Takes back what an origin said of an address; nothing if it said nothing. */
  withdraw(key: ArrayLike<number>, origin: number): void {
    this.#withdraw(key, origin, undefined);
  }

  /** Withdraws the claims of an origin that are older than a generation, step by step; all of them without one. */
  *sweeping(origin: number, generation: number | undefined): Generator<void> {
    if (!this.#tallies.hasOthers(origin, generation)) return;
    const width = this.table.keyWords;
    for (let part = 0; part < WordTable.parts; part++) {
      const keys = this.#stale(part, origin, generation);
      for (let at = 0; at < keys.length; at += width) {
        // It may have been listed again since.
        this.#withdraw(keys.slice(at, at + width), origin, generation);
        if (at % (STEP * width) === 0) yield;
      }
      yield;
    }
  }

  /** All claims on an address, the strongest first. */
  claims(key: ArrayLike<number>): Claim[] {
    const slot = this.table.find(key);
    if (slot < 0) return [];
    const claims = [read(this.table, slot)];
    if (!this.#isContested(slot)) return claims;
    for (const table of this.#weaker) {
      const weaker = table.find(key);
      if (weaker < 0) break;
      claims.push(read(table, weaker));
    }
    return claims;
  }

  /** Keys that more than one cluster claims, at most `limit` of them. */
  disputedKeys(limit: number): number[][] {
    const found: number[][] = [];
    const second = this.#weaker[0];
    if (second === undefined || this.#disputed === 0) return found;
    for (let part = 0; part < WordTable.parts && found.length < limit; part++) {
      second.forEach((slot) => {
        if (found.length < limit && (second.get(slot, META) & DISPUTED) !== 0) found.push([...second.keyAt(slot)]);
      }, part);
    }
    return found;
  }

  #contest(key: ArrayLike<number>, claim: Claim): void {
    const claims = this.claims(key);
    const [held] = claims;
    const former = claims.find((other) => other.origin === claim.origin);
    if (former !== undefined) this.#forget(former);
    this.#settle(key, held, [...claims.filter((other) => other !== former), claim]);
  }

  /** Writes the claims that are left of a contested address, each into the table of its rank. */
  #settle(key: ArrayLike<number>, before: Claim | undefined, claims: Claim[]): void {
    const { origins, changed } = this.#options;
    claims.sort((a, b) => origins.compare(a.origin, b.origin));
    const disputed = claims.length > 1 && origins.areDisputed(claims.map(({ origin }) => origin));
    this.#disputed += Number(disputed) - Number(this.#isDisputed(key));
    for (const [rank, claim] of claims.entries()) {
      const table = this.#rank(rank);
      const flag = rank === 0 && claims.length > 1 ? CONTESTED : rank === 1 && disputed ? DISPUTED : 0;
      write(table, table.insert(key), claim, flag);
    }
    for (const table of this.#weaker.slice(Math.max(0, claims.length - 1))) if (!table.remove(key)) break;
    const strongest = claims[0];
    if (strongest?.identity !== before?.identity || strongest?.host !== before?.host) changed(key);
  }

  #rank(rank: number): WordTable {
    if (rank === 0) return this.table;
    const known = this.#weaker[rank - 1];
    if (known !== undefined) return known;
    const table = new WordTable({ keyWords: this.table.keyWords, columns: 3 });
    this.#weaker.push(table);
    return table;
  }

  /** The words of all keys of a part that an origin claims in an older generation. */
  #stale(part: number, origin: number, generation: number | undefined): number[] {
    const width = this.table.keyWords;
    const words: number[] = [];
    for (const table of [this.table, ...this.#weaker]) {
      table.forEach((slot) => {
        const meta = table.get(slot, META);
        if ((meta & ORIGIN_MASK) !== origin) return;
        if (generation !== undefined && !isOlder((meta >>> GENERATION_SHIFT) & GENERATION_MASK, generation)) return;
        for (let word = 0; word < width; word++) words.push(table.keyWord(slot, word));
      }, part);
    }
    return words;
  }

  /** With a generation: only a claim that is older. */
  #withdraw(key: ArrayLike<number>, origin: number, generation: number | undefined): void {
    const { table } = this;
    const slot = table.find(key);
    if (slot < 0) return;
    const held = read(table, slot);
    if (this.#isContested(slot)) {
      const claims = this.claims(key);
      const gone = claims.find((claim) => claim.origin === origin);
      if (gone === undefined || (generation !== undefined && !isOlder(gone.generation, generation))) return;
      this.#forget(gone);
      this.#settle(
        key,
        held,
        claims.filter((claim) => claim !== gone),
      );
    } else if (held.origin === origin && (generation === undefined || isOlder(held.generation, generation))) {
      this.#forget(held);
      table.removeAt(slot);
      this.#options.changed(key);
    }
  }

  #isContested(slot: number): boolean {
    return (this.table.get(slot, META) & CONTESTED) !== 0;
  }

  #isDisputed(key: ArrayLike<number>): boolean {
    return ((this.#weaker[0]?.lookup(key, META) ?? 0) & DISPUTED) !== 0;
  }

  #forget(claim: Claim): void {
    this.#tallies.drop(claim);
    this.#options.endpoints.release(claim.host);
  }
}

function read(table: WordTable, slot: number): Claim {
  const meta = table.get(slot, META);
  return {
    identity: identity(table.get(slot, IDENTITY)),
    host: table.get(slot, HOST),
    origin: meta & ORIGIN_MASK,
    generation: (meta >>> GENERATION_SHIFT) & GENERATION_MASK,
  };
}

function write(table: WordTable, slot: number, claim: Claim, flags: number): void {
  table.set(slot, IDENTITY, claim.identity);
  table.set(slot, HOST, claim.host);
  const generation = (claim.generation & GENERATION_MASK) << GENERATION_SHIFT;
  table.set(slot, META, (claim.origin | generation | flags) >>> 0);
}
