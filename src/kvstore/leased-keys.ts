import type { Condition } from './transaction.ts';

export interface LeasedKeysOptions {
  /** 15 minutes by default, as Cilium has it. */
  readonly ttlSeconds?: number;
  /**
   * Everything under these is ours: what is there at the start, from us before a restart or from the leader before us, is
   * taken over with its lease and not written again; `sweep` removes what nobody has set by then. Keys are watched:
   * one that someone removes or changes is written again.
   */
  readonly prefixes: readonly string[];
  /** Conditions of every write: those of the leader. */
  readonly guard?: () => readonly Condition[];
  /** The guard did not hold: nothing was written, and nothing will be. Called once. */
  readonly onRefused?: () => void;
  /** Keys written or removed in a second, at most; 10,000 by default. */
  readonly rate?: number;
}

/**
 * Many keys (hundreds of thousands) under leases of at most 1000 keys each, as Cilium does it. `set` and `remove` say
 * what shall be; it is written in the background, in transactions of up to 128, in the order in which it was said,
 * and again whenever a lease, a key or the whole data set was lost.
 */
export interface LeasedKeys {
  /** Keys that shall be there. */
  readonly size: number;
  /** Writes and removals that the store has not confirmed yet. */
  readonly pending: number;
  readonly lastError: string | undefined;
  /** What shall be there under this key. */
  get(key: string): Buffer | undefined;
  /** Whole keys, all under one of the prefixes. */
  set(key: string, value: string | Buffer): void;
  remove(key: string): void;
  /** Removes what was found under the prefixes and was not set since. */
  sweep(): void;
  /** Resolves when the store has confirmed all that was said up to now; rejects when it is closed or refused before. */
  settled(): Promise<void>;
  /** Removes all keys (best effort), or with `keep` leaves them to their leases, for whoever comes next. */
  close(options?: { readonly keep?: boolean }): Promise<void>;
}
