import { POLICIES_PREFIX } from '../../kvstore/paths.ts';
import type { PrefixWatch } from '../../kvstore/store.ts';
import type { Leadership } from '../election.ts';
import type { HubStore } from '../hub-store.ts';

const AT_ONCE = 50;
const MAX_REQUEST_BYTES = 1 << 20;

/**
 * Remembers the policies for the case that the store loses its data while the hub runs. Machines keep theirs until canaries
 * say that the store is complete, and then believe what they find: a store without policies would open every one of them.
 * So the leader puts them back before anything announces the new store. A store that came back with policies of its own
 * (a backup) is believed.
 */
export class PolicyKeeper {
  readonly #store: HubStore;
  readonly #present = new Map<string, Buffer>();
  readonly #watch: PrefixWatch;
  readonly #unfollow: () => void;
  #lost: ReadonlyMap<string, Buffer> | undefined;
  #listed: Set<string> | undefined;

  constructor(store: HubStore) {
    this.#store = store;
    this.#watch = store.watchPrefix(POLICIES_PREFIX, {
      listing: () => {
        this.#listed = new Set();
      },
      put: (key, value) => {
        this.#listed?.add(key);
        this.#present.set(key, Buffer.from(value));
      },
      remove: (key) => void this.#present.delete(key),
      listed: () => {
        for (const key of this.#present.keys()) if (this.#listed?.has(key) !== true) this.#present.delete(key);
        this.#listed = undefined;
      },
    });
    this.#unfollow = store.session.follow({
      connect() {},
      disconnect() {},
      forget: () => {
        if (this.#present.size > 0) this.#lost = new Map(this.#present);
      },
    });
  }

  get size(): number {
    return this.#present.size;
  }

  /**
   * Puts back what was lost, if the store has no policy at all now. @returns how many
   * @throws MeshError HUB-NOT-LEADER, KVS-*
   */
  async restore(leader: Pick<Leadership, 'transact'>): Promise<number> {
    const lost = this.#lost;
    if (lost === undefined) return 0;
    const { entries } = await this.#store.readPrefix(POLICIES_PREFIX);
    if (entries.length === 0) for (const batch of batches(lost)) await leader.transact({ perform: batch });
    if (this.#lost === lost) this.#lost = undefined;
    return entries.length === 0 ? lost.size : 0;
  }

  close(): void {
    this.#watch.close();
    this.#unfollow();
  }
}

function* batches(documents: ReadonlyMap<string, Buffer>): Generator<{ put: string; value: Buffer }[]> {
  let batch: { put: string; value: Buffer }[] = [];
  let bytes = 0;
  for (const [key, value] of documents) {
    if (batch.length >= AT_ONCE || (batch.length > 0 && bytes + value.length > MAX_REQUEST_BYTES)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push({ put: POLICIES_PREFIX + key, value });
    bytes += value.length;
  }
  if (batch.length > 0) yield batch;
}
