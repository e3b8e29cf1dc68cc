import type { NumericIdentity } from '../core/identity.ts';
import { identity } from '../core/identity.ts';
import { WordTable } from '../core/word-table.ts';
import type { Origin, Origins } from './origin.ts';

/** What one origin says of an address. `host` is an index of the tunnel endpoints; 0 is none. */
export interface Claim {
  readonly identity: NumericIdentity;
  readonly host: number;
  readonly origin: number;
  readonly generation: number;
}

const IDENTITY = 0;
const HOST = 1;
const META = 2;
const ORIGIN_MASK = 0xfff;
const GENERATION_SHIFT = 12;
const GENERATION_MASK = 0xffff;
/** Weaker claims on this address are kept beside. */
const CONTESTED = 0x8000_0000;

/**
 * Single addresses of one family: the strongest claim of each in a typed table, the few weaker ones beside it. When the
 * strongest goes, the next one takes its place, whoever came first: the outcome depends on present facts alone.
 */
export class AddressTable {
  readonly table: WordTable;
  readonly #origins: Origins;
  readonly #weaker = new Map<string, Claim[]>();
  readonly #counts = new Map<number, number>();
  readonly #changed: (key: ArrayLike<number>) => void;

  constructor(keyWords: 1 | 4, origins: Origins, changed: (key: ArrayLike<number>) => void) {
    this.table = new WordTable({ keyWords, columns: 3 });
    this.#origins = origins;
    this.#changed = changed;
  }

  countOf(origin: Origin): number {
    return this.#counts.get(origin.index) ?? 0;
  }

  claim(key: ArrayLike<number>, claim: Claim): void {
    const slot = this.table.find(key);
    if (slot < 0) {
      this.#write(this.table.insert(key), claim, false);
      this.#count(claim.origin, 1);
      this.#changed(key);
      return;
    }
    const held = this.#read(slot);
    if (held.origin === claim.origin) this.#replaceStrongest(key, slot, held, claim);
    else this.#contest(key, claim);
  }

  /** Takes back what an origin said of an address; nothing if it said nothing. */
  withdraw(key: ArrayLike<number>, origin: number): void {
    const slot = this.table.find(key);
    if (slot < 0) return;
    const held = this.#read(slot);
    if (held.origin !== origin && !this.#isContested(slot)) return;
    const claims = this.#claims(key, slot).filter((claim) => claim.origin !== origin);
    this.#settle(key, claims, held);
  }

  /** Withdraws every claim of an origin that is not of this generation; all of them without one. */
  sweep(origin: number, generation: number | undefined): void {
    const gone: number[][] = [];
    const stale = (claim: Claim): boolean => claim.origin === origin && claim.generation !== generation;
    this.table.forEach((slot) => {
      if (stale(this.#read(slot)) || (this.#isContested(slot) && this.#weakerAt(slot).some(stale))) {
        gone.push([...this.table.keyAt(slot)]);
      }
    });
    for (const key of gone) this.withdraw(key, origin);
  }

  /** All claims on an address, the strongest first. */
  claims(key: ArrayLike<number>): readonly Claim[] {
    const slot = this.table.find(key);
    return slot < 0 ? [] : this.#claims(key, slot);
  }

  at(slot: number): Claim {
    return this.#read(slot);
  }

  /** Keys with more than one claim. */
  *contestedKeys(): Iterable<number[]> {
    for (const text of this.#weaker.keys()) yield text.split(' ').map(Number);
  }

  #replaceStrongest(key: ArrayLike<number>, slot: number, held: Claim, claim: Claim): void {
    this.#write(slot, claim, this.#isContested(slot));
    if (held.identity !== claim.identity || held.host !== claim.host) this.#changed(key);
  }

  #contest(key: ArrayLike<number>, claim: Claim): void {
    const slot = this.table.find(key);
    const held = this.#read(slot);
    const claims = this.#claims(key, slot).filter((other) => other.origin !== claim.origin);
    this.#settle(key, [...claims, claim], held);
  }

  #settle(key: ArrayLike<number>, claims: Claim[], before: Claim): void {
    const was = this.#claims(key, this.table.find(key));
    for (const { origin } of was) this.#count(origin, -1);
    for (const { origin } of claims) this.#count(origin, 1);
    const [strongest, ...rest] = claims.sort((a, b) => this.#origins.compare(a.origin, b.origin));
    const text = keyText(key);
    if (strongest === undefined) {
      this.#weaker.delete(text);
      this.table.remove(key);
    } else {
      if (rest.length > 0) this.#weaker.set(text, rest);
      else this.#weaker.delete(text);
      this.#write(this.table.find(key), strongest, rest.length > 0);
    }
    if (strongest?.identity !== before.identity || strongest.host !== before.host) this.#changed(key);
  }

  #claims(key: ArrayLike<number>, slot: number): Claim[] {
    const strongest = this.#read(slot);
    return this.#isContested(slot) ? [strongest, ...(this.#weaker.get(keyText(key)) ?? [])] : [strongest];
  }

  #weakerAt(slot: number): readonly Claim[] {
    return this.#weaker.get(keyText(this.table.keyAt(slot))) ?? [];
  }

  #isContested(slot: number): boolean {
    return (this.table.get(slot, META) & CONTESTED) !== 0;
  }

  #read(slot: number): Claim {
    const meta = this.table.get(slot, META);
    return {
      identity: identity(this.table.get(slot, IDENTITY)),
      host: this.table.get(slot, HOST),
      origin: meta & ORIGIN_MASK,
      generation: (meta >>> GENERATION_SHIFT) & GENERATION_MASK,
    };
  }

  #write(slot: number, claim: Claim, contested: boolean): void {
    this.table.set(slot, IDENTITY, claim.identity);
    this.table.set(slot, HOST, claim.host);
    const meta = claim.origin | ((claim.generation & GENERATION_MASK) << GENERATION_SHIFT);
    this.table.set(slot, META, (contested ? meta | CONTESTED : meta) >>> 0);
  }

  #count(origin: number, by: number): void {
    this.#counts.set(origin, (this.#counts.get(origin) ?? 0) + by);
  }
}

function keyText(key: ArrayLike<number>): string {
  return Array.prototype.join.call(key, ' ');
}
