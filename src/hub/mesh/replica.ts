import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import type { PrefixSink } from '../../kvstore/store.ts';
import { type Admission, REFUSALS, type Refusal } from './admission.ts';
import type { Budget } from './budget.ts';
import { type CacheKind, cachePrefix } from './kinds.ts';

export interface ReplicaOptions {
  readonly kind: CacheKind;
  readonly cluster: string;
  /** Everything below the cache prefix of this kind and cluster. */
  readonly keys: LeasedKeys;
  readonly budget: Budget;
  /** A complete list, and all of it, is in our store. */
  readonly onStored: () => void;
  readonly onChange: () => void;
}

export interface ReplicaSource {
  readonly admission: Admission;
  /** Whether a list that is over now can be believed to be complete. */
  readonly mayRemove: () => boolean;
}

/** Beyond so many refused keys only their number in the present list is known. */
const MAX_REFUSED = 10_000;

/**
 * The copy of one kind of facts of one cluster: what the source lists and reports is put into our store, value for value,
 * under the cache prefix. What is there already and equal is not written again; what the source does not have any more
 * goes only after a complete list.
 */
export class Replica {
  readonly kind: CacheKind;
  readonly #options: ReplicaOptions;
  readonly #prefix: string;
  readonly #refused = new Map<string, Refusal>();
  readonly #uncounted: Record<Refusal, number> = { identity: 0, address: 0, form: 0, size: 0, count: 0 };
  /** What the list under way has not shown yet. */
  #unseen: Set<string> | undefined;
  #stored = false;
  #partial = false;
  #lists = 0;

  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.kind = options.kind;
    this.#prefix = cachePrefix(options.kind, options.cluster);
  }

  get size(): number {
    return this.#options.keys.size;
  }

  get pending(): number {
    return this.#options.keys.pending;
  }

  get lastError(): string | undefined {
    return this.#options.keys.lastError;
  }

  /** A complete list is in our store, since the source was last told to be another one. */
  get stored(): boolean {
    return this.#stored;
  }

  /** The last list was not believed. */
  get partial(): boolean {
    return this.#partial;
  }

  refused(reason: Refusal): number {
    let count = this.#uncounted[reason];
    for (const each of this.#refused.values()) if (each === reason) count++;
    return count;
  }

  /** Whether something was refused for this reason. */
  lacks(reason: Refusal): boolean {
    return this.#uncounted[reason] > 0 || [...this.#refused.values()].includes(reason);
  }

  /** A few refused keys, for people. */
  examples(limit: number): { readonly key: string; readonly reason: Refusal }[] {
    return [...this.#refused].slice(0, limit).map(([key, reason]) => ({ key, reason }));
  }

  /** Takes what the source says from now on. Another sink is made for each watch. */
  sink({ admission, mayRemove }: ReplicaSource): PrefixSink {
    return {
      listing: () => this.#listing(),
      put: (key, value) => this.#put(key, value, admission),
      remove: (key) => {
        admission.gone(this.kind, key);
        this.#remove(key);
      },
      listed: () => this.#listed(mayRemove(), admission),
    };
  }

  /** The source has nothing of this kind: what we have of it goes. */
  empty(): void {
    this.#listing();
    this.#listed(true);
  }

  /** What we have belongs to another cluster than the one that is listed next. */
  clear(): void {
    this.#listing();
    for (const whole of this.#unseen ?? []) this.#drop(whole);
    this.#unseen = undefined;
    this.#options.keys.sweep();
    this.restart();
  }

  /** Takes a key back that was good when it came. False when it was not here. */
  revoke(key: string, reason: Refusal): boolean {
    if (this.#options.keys.get(this.#prefix + key) === undefined) return false;
    this.#refuse(key, reason);
    return true;
  }

  /** The source is told to be another one, or another data set. Everything stays. */
  restart(): void {
    this.#stored = false;
    this.#partial = false;
  }

  async close(options: { readonly keep: boolean }): Promise<void> {
    await this.#options.keys.close(options);
  }

  #listing(): void {
    this.#lists++;
    this.#unseen = new Set(this.#options.keys.keys());
    for (const key of this.#refused.keys()) this.#unseen.add(this.#prefix + key);
    this.#refused.clear();
    for (const reason of REFUSALS) this.#uncounted[reason] = 0;
  }

  #put(key: string, value: Buffer, admission: Admission): void {
    const { keys, budget } = this.#options;
    const whole = this.#prefix + key;
    this.#unseen?.delete(whole);
    const refusal = admission.check(this.kind, key, value);
    if (refusal !== undefined) {
      // What is refused for its address alone is heard of again when that is free; the others claim nothing.
      if (refusal !== 'address' || this.#refused.size >= MAX_REFUSED) admission.gone(this.kind, key);
      this.#refuse(key, refusal);
      return;
    }
    const before = keys.get(whole);
    if (!budget.take(whole, before, value)) {
      admission.gone(this.kind, key);
      this.#refuse(key, 'count');
      return;
    }
    this.#refused.delete(key);
    keys.set(whole, value);
  }

  #refuse(key: string, reason: Refusal): void {
    this.#drop(this.#prefix + key);
    if (this.#refused.has(key) || this.#refused.size < MAX_REFUSED) this.#refused.set(key, reason);
    else this.#uncounted[reason]++;
    this.#options.onChange();
  }

  #remove(key: string): void {
    this.#refused.delete(key);
    this.#drop(this.#prefix + key);
  }

  #drop(whole: string): void {
    const { keys, budget } = this.#options;
    const before = keys.get(whole);
    if (before !== undefined) budget.give(whole, before);
    keys.remove(whole);
  }

  #listed(believed: boolean, admission?: Admission): void {
    const unseen = this.#unseen;
    this.#unseen = undefined;
    this.#partial = !believed;
    if (!believed) return;
    for (const whole of unseen ?? []) {
      admission?.gone(this.kind, whole.slice(this.#prefix.length));
      this.#drop(whole);
    }
    this.#options.keys.sweep();
    void this.#settle(this.#lists);
  }

  async #settle(list: number): Promise<void> {
    try {
      await this.#options.keys.settled();
    } catch {
      // Closed, or this hub does not lead any more.
      return;
    }
    if (list !== this.#lists || this.#unseen !== undefined) return;
    this.#stored = true;
    this.#options.onStored();
  }
}
