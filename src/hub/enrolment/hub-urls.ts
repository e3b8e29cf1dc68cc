import type { OwnedKey, PrefixWatch } from '../../kvstore/store.ts';
import { isHubUrl } from '../../pki/join-token.ts';
import type { HubStore } from '../hub-store.ts';
import { HUBS_PREFIX, parseObject } from './keys.ts';

const TTL_SECONDS = 60;
const MAX_TOLD = 8;

/** Where machines reach the hubs that run: each says so in the store, under a lease. */
export class HubUrls {
  readonly #own: string;
  readonly #known = new Map<string, string>();
  readonly #watch: PrefixWatch;
  readonly #key: OwnedKey;
  #listed: Set<string> | undefined;

  constructor(store: Pick<HubStore, 'own' | 'watchPrefix'>, own: string) {
    this.#own = own;
    this.#key = store.own(`${HUBS_PREFIX}${encodeURIComponent(own)}`, JSON.stringify({ url: own }), {
      ttlSeconds: TTL_SECONDS,
    });
    this.#watch = store.watchPrefix(HUBS_PREFIX, {
      listing: () => {
        this.#listed = new Set();
      },
      put: (key, value) => {
        const url = parseObject(value)?.url;
        this.#listed?.add(key);
        if (typeof url === 'string' && isHubUrl(url)) this.#known.set(key, url);
        else this.#known.delete(key);
      },
      remove: (key) => this.#known.delete(key),
      listed: () => {
        for (const key of [...this.#known.keys()]) if (this.#listed?.has(key) === false) this.#known.delete(key);
        this.#listed = undefined;
      },
    });
  }

  /** This hub first. */
  list(): readonly string[] {
    return [...new Set([this.#own, ...[...this.#known.values()].sort()])].slice(0, MAX_TOLD);
  }

  async close(): Promise<void> {
    this.#watch.close();
    await this.#key.release();
  }
}
