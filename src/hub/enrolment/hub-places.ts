import type { OwnedKey, PrefixWatch } from '../../kvstore/store.ts';
import { isHubUrl } from '../../pki/join-token.ts';
import type { HubStore } from '../hub-store.ts';
import { HUBS_PREFIX, parseObject } from './keys.ts';

/** Where machines reach a hub: to enrol, and for the store. URLs of a host and a port. */
export interface HubPlace {
  readonly enrolment: string;
  readonly store: string;
}

const TTL_SECONDS = 60;
const MAX_TOLD = 8;

/** Where machines reach the hubs that run: each says so in the store, under a lease. */
export class HubPlaces {
  readonly #own: HubPlace;
  readonly #known = new Map<string, HubPlace>();
  readonly #watch: PrefixWatch;
  readonly #key: OwnedKey;
  #listed: Set<string> | undefined;

  constructor(store: Pick<HubStore, 'own' | 'watchPrefix'>, own: HubPlace) {
    this.#own = own;
    this.#key = store.own(`${HUBS_PREFIX}${encodeURIComponent(own.enrolment)}`, JSON.stringify(own), {
      ttlSeconds: TTL_SECONDS,
    });
    this.#watch = store.watchPrefix(HUBS_PREFIX, {
      listing: () => {
        this.#listed = new Set();
      },
      put: (key, value) => {
        const place = decode(value);
        this.#listed?.add(key);
        if (place === undefined) this.#known.delete(key);
        else this.#known.set(key, place);
      },
      remove: (key) => this.#known.delete(key),
      listed: () => {
        for (const key of [...this.#known.keys()]) if (this.#listed?.has(key) === false) this.#known.delete(key);
        this.#listed = undefined;
      },
    });
  }

  /** This hub first. */
  list(): readonly HubPlace[] {
    const others = [...this.#known.values()].filter(({ enrolment }) => enrolment !== this.#own.enrolment);
    return [this.#own, ...others.sort((a, b) => (a.enrolment < b.enrolment ? -1 : 1))].slice(0, MAX_TOLD);
  }

  async close(): Promise<void> {
    this.#watch.close();
    await this.#key.release();
  }
}

function decode(value: Buffer): HubPlace | undefined {
  const { enrolment, store } = parseObject(value) ?? {};
  return typeof enrolment === 'string' && typeof store === 'string' && isHubUrl(enrolment) && isHubUrl(store)
    ? { enrolment, store }
    : undefined;
}
