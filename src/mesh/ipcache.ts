import { Feed } from '../core/feed.ts';
import { identity, type NumericIdentity, RESERVED } from '../core/identity.ts';
import {
  type Address,
  addressBits,
  contains,
  formatAddress,
  formatIpv6,
  formatPrefix,
  type Prefix,
  prefixOf,
} from '../core/ip.ts';
import { AddressTable, type Claim } from './address-table.ts';
import type { Origin, Origins } from './origin.ts';

export interface IpcacheEntry {
  readonly prefix: Prefix;
  readonly identity: NumericIdentity;
  /** The node that the address lives on. */
  readonly tunnelEndpoint: Address | undefined;
  readonly origin: Origin;
  /** What weaker origins say of the same address. */
  readonly others: readonly { readonly origin: Origin; readonly identity: NumericIdentity }[];
}

interface PrefixClaim {
  readonly prefix: Prefix;
  readonly identity: NumericIdentity;
  readonly host: number;
  readonly origin: number;
  readonly generation: number;
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
  readonly #prefixes = new Map<string, PrefixClaim[]>();
  readonly #prefixCounts = new Map<number, number>();
  readonly #hostList: (Address | undefined)[] = [undefined];
  readonly #hostIndex = new Map<string, number>();
  /** Lengths in use per family, longest first, for lookups. */
  #lengths: { 4: number[]; 6: number[] } | undefined;

  constructor(origins: Origins) {
    this.#origins = origins;
    this.hosts4 = new AddressTable(1, origins, (key) => this.changed4.mark(key[0] as number));
    this.hosts6 = new AddressTable(4, origins, (key) => this.changed6.mark(formatIpv6(Array.from(key))));
  }

  get size(): number {
    return this.hosts4.table.size + this.hosts6.table.size + this.#prefixes.size;
  }

  claim(origin: Origin, generation: number, entry: AddressClaim): void {
    const host = this.#host(entry.tunnelEndpoint);
    const claim = { identity: identity(entry.identity), host, origin: origin.index, generation };
    if (entry.bits === undefined) this.#hosts(entry.address.family).claim(entry.address.words, claim);
    else this.#claimPrefix(prefixOf(entry.address, entry.bits), claim);
  }

  /** Says that what an origin claims was listed again, although its new value was refused. */
  keep(origin: Origin, generation: number, address: Address, bits: number | undefined): void {
    const claims: readonly Claim[] =
      bits === undefined
        ? this.#hosts(address.family).claims(address.words)
        : this.#claimsOf(formatPrefix(prefixOf(address, bits)));
    const held = claims.find((claim) => claim.origin === origin.index);
    if (held === undefined) return;
    this.claim(origin, generation, {
      address,
      bits,
      identity: held.identity,
      tunnelEndpoint: this.#hostList[held.host],
    });
  }

  withdraw(origin: Origin, address: Address, bits: number | undefined): void {
    if (bits === undefined) this.#hosts(address.family).withdraw(address.words, origin.index);
    else {
      const text = formatPrefix(prefixOf(address, bits));
      this.#settlePrefix(
        text,
        this.#claimsOf(text).filter((claim) => claim.origin !== origin.index),
      );
    }
  }

  /** Withdraws what an origin did not say again in this generation; everything of it without one. */
  sweep(origin: Origin, generation?: number): void {
    this.hosts4.sweep(origin.index, generation);
    this.hosts6.sweep(origin.index, generation);
    for (const [text, claims] of [...this.#prefixes]) {
      const kept = claims.filter((claim) => claim.origin !== origin.index || claim.generation === generation);
      if (kept.length < claims.length) this.#settlePrefix(text, kept);
    }
  }

  countOf(origin: Origin): number {
    return this.hosts4.countOf(origin) + this.hosts6.countOf(origin) + (this.#prefixCounts.get(origin.index) ?? 0);
  }

  *prefixes(): Iterable<{
    readonly prefix: Prefix;
    readonly identity: NumericIdentity;
    readonly via: Address | undefined;
  }> {
    for (const [claim] of this.#prefixes.values()) {
      if (claim !== undefined)
        yield { prefix: claim.prefix, identity: claim.identity, via: this.#hostList[claim.host] };
    }
  }

  /** The tunnel endpoint of a single address. */
  hostOf(family: 4 | 6, key: ArrayLike<number>): Address | undefined {
    const table = family === 4 ? this.hosts4.table : this.hosts6.table;
    return this.#hostList[table.lookup(key, 1) ?? 0];
  }

  /** Longest match; undefined for an address that nobody claims (world). */
  lookup(address: Address): IpcacheEntry | undefined {
    const bits = addressBits(address.family);
    const claims = this.#hosts(address.family).claims(address.words);
    if (claims.length > 0) return this.#entry(prefixOf(address, bits), claims);
    this.#lengths ??= this.#lengthsInUse();
    for (const length of this.#lengths[address.family]) {
      const prefix = prefixOf(address, length);
      const found = this.#prefixes.get(formatPrefix(prefix));
      if (found !== undefined) return this.#entry(prefix, found);
    }
    return undefined;
  }

  /** Every entry, prefixes first. May be long: iterate, do not collect. The tables must not change while a step runs. */
  *entries(): Iterable<IpcacheEntry> {
    for (const claims of [...this.#prefixes.values()]) {
      const first = claims[0];
      if (first !== undefined) yield this.#entry(first.prefix, claims);
    }
    yield* this.#hostEntries(this.hosts4, 4);
    yield* this.#hostEntries(this.hosts6, 6);
  }

  /** Addresses that more than one origin claims. */
  *contestedEntries(): Iterable<IpcacheEntry> {
    for (const [hosts, family] of [
      [this.hosts4, 4],
      [this.hosts6, 6],
    ] as const) {
      for (const words of hosts.contestedKeys())
        yield this.#entry({ family, words, bits: addressBits(family) }, hosts.claims(words));
    }
  }

  /** Addresses that several clusters claim; at most `limit` of them. */
  conflicts(limit: number): IpcacheEntry[] {
    const found: IpcacheEntry[] = [];
    for (const entry of this.contestedEntries()) {
      if (found.length >= limit) break;
      if (entry.others.some(({ origin }) => origin.cluster !== entry.origin.cluster)) found.push(entry);
    }
    return found;
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

  #entry(prefix: Prefix, claims: readonly (Claim | PrefixClaim)[]): IpcacheEntry {
    const [strongest, ...rest] = claims;
    return {
      prefix,
      identity: strongest?.identity ?? RESERVED.unknown,
      tunnelEndpoint: this.#hostList[strongest?.host ?? 0],
      origin: this.#origins.at(strongest?.origin ?? 0),
      others: rest.map((claim) => ({ origin: this.#origins.at(claim.origin), identity: claim.identity })),
    };
  }

  #hosts(family: 4 | 6): AddressTable {
    return family === 4 ? this.hosts4 : this.hosts6;
  }

  #claimPrefix(prefix: Prefix, claim: Claim): void {
    const text = formatPrefix(prefix);
    const others = this.#claimsOf(text).filter((other) => other.origin !== claim.origin);
    this.#settlePrefix(text, [...others, { prefix, ...claim }]);
  }

  #claimsOf(text: string): readonly PrefixClaim[] {
    return this.#prefixes.get(text) ?? [];
  }

  #settlePrefix(text: string, claims: PrefixClaim[]): void {
    const before = this.#prefixes.get(text);
    for (const { origin } of before ?? []) this.#prefixCounts.set(origin, (this.#prefixCounts.get(origin) ?? 0) - 1);
    for (const { origin } of claims) this.#prefixCounts.set(origin, (this.#prefixCounts.get(origin) ?? 0) + 1);
    const strongest = claims.sort((a, b) => this.#origins.compare(a.origin, b.origin))[0];
    if (strongest === undefined) this.#prefixes.delete(text);
    else this.#prefixes.set(text, claims);
    if ((before === undefined) !== (strongest === undefined)) this.#lengths = undefined;
    const held = before?.[0];
    if (held?.identity !== strongest?.identity || held?.host !== strongest?.host) this.changedPrefixes.mark(text);
  }

  #lengthsInUse(): { 4: number[]; 6: number[] } {
    const found = { 4: new Set<number>(), 6: new Set<number>() };
    for (const [claim] of this.#prefixes.values())
      if (claim !== undefined) found[claim.prefix.family].add(claim.prefix.bits);
    const sorted = (set: Set<number>): number[] => [...set].sort((a, b) => b - a);
    return { 4: sorted(found[4]), 6: sorted(found[6]) };
  }

  #host(address: Address | undefined): number {
    if (address === undefined) return 0;
    const text = formatAddress(address);
    const known = this.#hostIndex.get(text);
    if (known !== undefined) return known;
    this.#hostList.push(address);
    this.#hostIndex.set(text, this.#hostList.length - 1);
    return this.#hostList.length - 1;
  }
}

/** Whether an address lies in a prefix. */
export function isIn(prefix: Prefix, address: Address): boolean {
  return contains(prefix, prefixOf(address, addressBits(address.family)));
}
