import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import { LOST_PREFIX } from '../../kvstore/paths.ts';
import type { StoreState } from '../../kvstore/store.ts';

/**
 * Tells machines which connected clusters the hub cannot reach: what they read of these in the cache is not of today. Each
 * machine decides itself, after a grace of its own, what that means for the services that it uses.
 */
export class LostClusters {
  readonly #keys: LeasedKeys;
  #swept = false;

  constructor(keys: LeasedKeys) {
    this.#keys = keys;
  }

  /** All connected clusters, with the state of the connection; what is not among them is not told any more. */
  look(clusters: ReadonlyMap<string, StoreState>): void {
    for (const [name, state] of clusters) {
      const key = LOST_PREFIX + name;
      const told = this.#keys.get(key) !== undefined;
      // One that is being connected for the first time is not lost, and one that is tried again is not found.
      if (!told && state === 'failed') this.#keys.set(key, JSON.stringify({ since: Date.now() }));
      else if (told && state === 'connected') this.#keys.remove(key);
    }
    for (const key of [...this.#keys.keys()]) if (!clusters.has(key.slice(LOST_PREFIX.length))) this.#keys.remove(key);
    // What a leader before us said and we do not.
    if (!this.#swept) this.#keys.sweep();
    this.#swept = true;
  }

  /** Leaves what was said to its leases, for the leader after us. */
  close(): Promise<void> {
    return this.#keys.close({ keep: true });
  }
}
