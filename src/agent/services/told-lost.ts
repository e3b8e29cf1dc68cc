import { parseObject, uint } from '../../kvstore/codec/json.ts';
import { LOST_PREFIX } from '../../kvstore/paths.ts';
import type { PrefixWatch, Store } from '../../kvstore/store.ts';

/** There are no more clusters than that. */
const MAX_TOLD = 511;

/**
 * Clusters that the hub of this machine cannot reach, by its word: what we read of them is its copy. While the hub is away
 * its last word stays. A store of another kind says nothing.
 */
export class ToldLost {
  readonly #onChange: () => void;
  #clusters = new Map<string, number>();
  #store: Store | undefined;
  #watch: PrefixWatch | undefined;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  /** By name, since when, milliseconds since the epoch. */
  get clusters(): ReadonlyMap<string, number> {
    return this.#clusters;
  }

  /** The store of the joined cluster; the same again changes nothing. */
  follow(store: Store | undefined): void {
    if (store === this.#store) return;
    this.close();
    this.#store = store;
    if (store === undefined) return;
    let listed: Map<string, number> | undefined;
    this.#watch = store.watchPrefix(LOST_PREFIX, {
      listing: () => {
        listed = new Map();
      },
      put: (name, value) => {
        const target = listed ?? this.#clusters;
        if (target.size < MAX_TOLD || target.has(name)) target.set(name, sinceOf(value));
        if (listed === undefined) this.#onChange();
      },
      remove: (name) => {
        listed?.delete(name);
        this.#clusters.delete(name);
        this.#onChange();
      },
      listed: () => {
        this.#clusters = listed ?? this.#clusters;
        listed = undefined;
        this.#onChange();
      },
    });
  }

  close(): void {
    this.#watch?.close();
    this.#watch = undefined;
    this.#store = undefined;
    this.#clusters = new Map();
  }
}

/** A time that nobody can read is now: that the key is there is the word. */
function sinceOf(value: Buffer): number {
  try {
    return uint(parseObject(value), 'since', Date.now()) || Date.now();
  } catch {
    return Date.now();
  }
}
