import type { PrefixWatch } from '../../kvstore/store.ts';
import type { HubStore } from '../hub-store.ts';
import { REVOKED_PREFIX } from './keys.ts';

/**
 * Serial numbers of machines' certificates that are revoked and not yet long expired. etcd knows a machine by its common
 * name alone: once a machine has joined again, its former certificate would be let in again too, if nobody looked here.
 */
export class RevokedSerials {
  #known = new Set<string>();
  #listed: Set<string> | undefined;
  readonly #watch: PrefixWatch;

  constructor(store: Pick<HubStore, 'watchPrefix'>) {
    this.#watch = store.watchPrefix(REVOKED_PREFIX, {
      listing: () => {
        this.#listed = new Set();
      },
      put: (serial) => {
        this.#known.add(serial);
        this.#listed?.add(serial);
      },
      remove: (serial) => this.#known.delete(serial),
      listed: () => {
        this.#known = this.#listed ?? this.#known;
        this.#listed = undefined;
      },
    });
  }

  get size(): number {
    return this.#known.size;
  }

  /** As `X509Certificate.serialNumber` has it; `unknown` before the first list is complete. */
  standing(serial: string): 'good' | 'revoked' | 'unknown' {
    if (!this.#watch.synced) return 'unknown';
    return this.#known.has(serial) ? 'revoked' : 'good';
  }

  close(): void {
    this.#watch.close();
  }
}
