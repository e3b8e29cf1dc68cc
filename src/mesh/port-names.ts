import { isDeepStrictEqual } from 'node:util';
import { Feed } from '../core/feed.ts';
import type { NumericIdentity } from '../core/identity.ts';
import type { EndpointPort } from '../kvstore/codec/address.ts';
import { FactTable } from './fact-table.ts';
import type { Origin } from './origin.ts';

interface Offer {
  readonly identity: NumericIdentity;
  readonly ports: readonly EndpointPort[];
}

/** Names of ports that endpoints publish with their addresses, by identity. Few endpoints have any. */
export class PortNames {
  /** Identities whose ports may be others now. */
  readonly changed = new Feed<NumericIdentity>();
  /** By cluster and key of the address. */
  readonly #offers = new FactTable<string, Offer>(isDeepStrictEqual);
  readonly #byIdentity = new Map<NumericIdentity, Set<string>>();

  /** Every port that some endpoint of this identity offers; names may repeat with other numbers. */
  of(identity: NumericIdentity): EndpointPort[] {
    return [...(this.#byIdentity.get(identity) ?? [])].flatMap((key) => this.#offers.get(key)?.ports ?? []);
  }

  put(origin: Origin, generation: number, key: string, offer: Offer): void {
    const before = this.#offers.get(key);
    if (offer.ports.length === 0) {
      this.remove(origin, key);
      return;
    }
    this.#offers.put(origin, generation, key, offer);
    if (before !== undefined && before.identity !== offer.identity) this.#unlink(key, before);
    const keys = this.#byIdentity.get(offer.identity) ?? new Set<string>();
    this.#byIdentity.set(offer.identity, keys.add(key));
    if (!isDeepStrictEqual(before, offer)) this.changed.mark(offer.identity);
  }

  keep(origin: Origin, generation: number, key: string): void {
    this.#offers.keep(origin, generation, key);
  }

  remove(origin: Origin, key: string): void {
    const before = this.#offers.get(key);
    if (before === undefined) return;
    this.#offers.remove(origin, key);
    if (this.#offers.get(key) === undefined) this.#unlink(key, before);
  }

  sweeping(origin: Origin, generation?: number): Generator<void> {
    return this.#offers.sweeping(origin, generation, (key, offer) => this.#unlink(key, offer));
  }

  #unlink(key: string, { identity }: Offer): void {
    const keys = this.#byIdentity.get(identity);
    keys?.delete(key);
    if (keys?.size === 0) this.#byIdentity.delete(identity);
    this.changed.mark(identity);
  }
}
