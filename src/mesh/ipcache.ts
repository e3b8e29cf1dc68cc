import { Feed } from '../core/feed.ts';
import { identity, type NumericIdentity, RESERVED } from '../core/identity.ts';
import { type Address, addressBits, contains, formatIpv6, type Prefix, prefixOf } from '../core/ip.ts';
import { AddressTable, type Claim } from './address-table.ts';
import type { Origin, Origins } from './origin.ts';
import { PrefixTable } from './prefix-table.ts';
import { exhaust } from './slices.ts';
import { TunnelEndpoints } from './tunnel-endpoints.ts';

export interface IpcacheEntry {
  readonly prefix: Prefix;
  readonly identity: NumericIdentity;
  /** The node that the address lives on. */
  readonly tunnelEndpoint: Address | undefined;
  readonly origin: Origin;
  /** What weaker origins say of the same address. */
  readonly others: readonly { readonly origin: Origin; readonly identity: NumericIdentity }[];
}

/** A claim as an origin makes it. `bits` undefined is a single address, which is stronger than any prefix. */
export interface AddressClaim {
  readonly address: Address;
  readonly bits: number | undefined;
  readonly identity: number;
  readonly tunnelEndpoint: Address | undefined;
}

/**
 * Which identity an address has, and which node it lives on: every source merged, longest prefix wins, single addresses
 * before prefixes of the same length (kvstore specification 4.10). A million addresses are held in typed arrays.
 */
export class Ipcache {
  readonly hosts4: AddressTable;
  readonly hosts6: AddressTable;
  /** Single addresses whose identity or tunnel endpoint changed: the word of an IPv4 address, the text of an IPv6 one. */
  readonly changed4 = new Feed<number>();
  readonly changed6 = new Feed<string>();
  /** Text of the prefixes that changed. */
  readonly changedPrefixes = new Feed<string>();
  readonly #origins: Origins;
  readonly #endpoints = new TunnelEndpoints();
  readonly #prefixes: PrefixTable;

  constructor(origins: Origins) {
    const endpoints = this.#endpoints;
    this.#origins = origins;
    this.hosts4 = new AddressTable({
      keyWords: 1,
      origins,
      endpoints,
      changed: (key) => this.changed4.mark(key[0] as number),
    });
    this.hosts6 = new AddressTable({
      keyWords: 4,
      origins,
      endpoints,
      // The text of a million addresses is dear, and before somebody listens nobody needs it.
      changed: (key) => {
        if (this.changed6.heard) this.changed6.mark(formatIpv6(Array.from(key)));
      },
    });
    this.#prefixes = new PrefixTable({ origins, endpoints, changed: (text) => this.changedPrefixes.mark(text) });
  }

  get size(): number {
    return this.hosts4.table.size + this.hosts6.table.size + this.#prefixes.size;
  }

  /** Tunnel endpoints that are in use. */
  get tunnelEndpoints(): number {
    return this.#endpoints.size;
  }

  claim(origin: Origin, generation: number, entry: AddressClaim): void {
    const host = this.#endpoints.indexOf(entry.tunnelEndpoint);
    const claim = { identity: identity(entry.identity), host, origin: origin.index, generation };
    const { address, bits } = entry;
    if (bits === undefined) this.#hosts(address.family).claim(address.words, claim);
    else this.#prefixes.claim({ ...claim, prefix: prefixOf(address, bits) });
  }

  /** Says that what an origin claims was listed again, although its new value was refused. */
  keep(origin: Origin, generation: number, address: Address, bits: number | undefined): void {
    if (bits === undefined) this.#hosts(address.family).keep(address.words, origin.index, generation);
    else this.#prefixes.keep(prefixOf(address, bits), origin.index, generation);
  }

  withdraw(origin: Origin, address: Address, bits: number | undefined): void {
    if (bits === undefined) this.#hosts(address.family).withdraw(address.words, origin.index);
    else this.#prefixes.withdraw(prefixOf(address, bits), origin.index);
  }

  /** Withdraws what an origin did not say again in this generation; everything of it without one. */
  sweep(origin: Origin, generation?: number): void {
    exhaust(this.sweeping(origin, generation));
  }

  /** The same step by step: what is said again between two steps stays. */
  *sweeping(origin: Origin, generation?: number): Generator<void> {
    for (const table of [this.hosts4, this.hosts6, this.#prefixes]) yield* table.sweeping(origin.index, generation);
  }

  countOf(origin: Origin): number {
    return this.hosts4.countOf(origin) + this.hosts6.countOf(origin) + this.#prefixes.countOf(origin);
  }

  *prefixes(): Iterable<{
    readonly prefix: Prefix;
    readonly identity: NumericIdentity;
    readonly via: Address | undefined;
  }> {
    for (const [claim] of this.#prefixes.values()) {
      if (claim !== undefined)
        yield { prefix: claim.prefix, identity: claim.identity, via: this.#endpoints.at(claim.host) };
    }
  }

  /** The tunnel endpoint of a single address. */
  hostOf(family: 4 | 6, key: ArrayLike<number>): Address | undefined {
    const table = family === 4 ? this.hosts4.table : this.hosts6.table;
    return this.#endpoints.at(table.lookup(key, 1) ?? 0);
  }

  /** Longest match; undefined for an address that nobody claims (world). */
  lookup(address: Address): IpcacheEntry | undefined {
    const claims = this.#hosts(address.family).claims(address.words);
    if (claims.length > 0) return this.#entry(prefixOf(address, addressBits(address.family)), claims);
    const found = this.#prefixes.lookup(address);
    return found?.[0] && this.#entry(found[0].prefix, found);
  }

  /** Every entry, prefixes first. May be long: iterate, do not collect. */
  *entries(): Iterable<IpcacheEntry> {
    for (const claims of [...this.#prefixes.values()]) {
      const first = claims[0];
      if (first !== undefined) yield this.#entry(first.prefix, claims);
    }
    yield* this.#hostEntries(this.hosts4, 4);
    yield* this.#hostEntries(this.hosts6, 6);
  }

  /** Addresses and prefixes that several clusters claim; at most `limit` of them. */
  conflicts(limit: number): IpcacheEntry[] {
    const found: IpcacheEntry[] = [];
    for (const claims of this.#prefixes.disputed(limit)) {
      const first = claims[0];
      if (first !== undefined) found.push(this.#entry(first.prefix, claims));
    }
    for (const family of [4, 6] as const) {
      const hosts = this.#hosts(family);
      for (const words of hosts.disputedKeys(limit - found.length))
        found.push(this.#entry({ family, words, bits: addressBits(family) }, hosts.claims(words)));
    }
    return found.sort((a, b) => comparePrefixes(a.prefix, b.prefix));
  }

  *#hostEntries(hosts: AddressTable, family: 4 | 6): Iterable<IpcacheEntry> {
    const keys: Uint32Array = hosts.table.keys();
    const width = hosts.table.keyWords;
    for (let at = 0; at < keys.length; at += width) {
      const words = Array.from(keys.subarray(at, at + width));
      const claims = hosts.claims(words);
      if (claims.length > 0) yield this.#entry({ family, words, bits: addressBits(family) }, claims);
    }
  }

  #entry(prefix: Prefix, claims: readonly Claim[]): IpcacheEntry {
    const [strongest, ...rest] = claims;
    return {
      prefix,
      identity: strongest?.identity ?? RESERVED.unknown,
      tunnelEndpoint: this.#endpoints.at(strongest?.host ?? 0),
      origin: this.#origins.at(strongest?.origin ?? 0),
      others: rest.map((claim) => ({ origin: this.#origins.at(claim.origin), identity: claim.identity })),
    };
  }

  #hosts(family: 4 | 6): AddressTable {
    return family === 4 ? this.hosts4 : this.hosts6;
  }
}

/** Whether an address lies in a prefix. */
export function isIn(prefix: Prefix, address: Address): boolean {
  return contains(prefix, prefixOf(address, addressBits(address.family)));
}

function comparePrefixes(a: Prefix, b: Prefix): number {
  if (a.family !== b.family) return a.family - b.family;
  for (const [index, word] of a.words.entries()) {
    const other = b.words[index] ?? 0;
    if (word !== other) return word - other;
  }
  return a.bits - b.bits;
}
