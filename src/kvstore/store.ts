/**
 * What the rest of the agent knows of a key-value store: an etcd, reached over one session that fails over between its
 * endpoints and comes back by itself. Implemented by `session.ts`.
 */
export interface KeyValue {
  readonly key: string;
  readonly value: Buffer;
  readonly modRevision: number;
  /** Hexadecimal, `0` for none. */
  readonly lease: string;
}

/**
 * The consumer of a watched prefix. After `listing` everything under the prefix is put again, and `listed` says that the
 * list was complete: what was not put in between has vanished (mark and sweep is the consumer's, who knows how to
 * hold a million keys compactly). Between `listing` and `listed` nothing must be removed. A disconnect calls nothing:
 * facts stay. Keys are relative to the prefix. A sink must not throw; what it throws is logged and the key is skipped.
 */
export interface PrefixSink {
  listing(): void;
  put(key: string, value: Buffer, modRevision: number): void;
  remove(key: string): void;
  listed(): void;
}

export interface PrefixWatch {
  /** True once the first list is complete; stays true while disconnected. */
  readonly synced: boolean;
  /** Lists so far: more than one means disconnects, compactions or lost data. */
  readonly lists: number;
  readonly lastError: string | undefined;
  close(): void;
}

export type StoreState = 'connecting' | 'connected' | 'failed' | 'closed';

/** Everything that `status` shows of a store. Times are milliseconds since the epoch. */
export interface StoreStatus {
  readonly state: StoreState;
  readonly since: number;
  readonly endpoints: readonly string[];
  /** The endpoint in use. */
  readonly endpoint: string | undefined;
  /** etcd cluster id, hexadecimal. A changed id means another data set: everything is listed again. */
  readonly clusterId: string | undefined;
  readonly hasQuorum: boolean;
  readonly lastHeartbeat: number | undefined;
  readonly reconnections: number;
  readonly failures: number;
  readonly lastFailure: { readonly at: number; readonly code: string; readonly message: string } | undefined;
  readonly leases: number;
  /** One line, in the words of `cilium-dbg status`. */
  readonly summary: string;
}

export interface Store {
  readonly status: StoreStatus;
  /** Called on every change of `status.state`, `status.endpoint`, quorum or failure. */
  onStatus(listener: () => void): () => void;
  get(key: string): Promise<KeyValue | undefined>;
  /** All keys under a prefix, relative keys, paged; for small prefixes only. */
  list(prefix: string): Promise<KeyValue[]>;
  /** A plain put without a lease. */
  put(key: string, value: string | Buffer): Promise<void>;
  remove(key: string): Promise<boolean>;
  /**
   * Owns a key: writes it with a lease that is kept alive, writes it again after lease loss, data loss or reconnect, for as
   * long as the handle is open. `update` replaces the value. `release` removes the key (best effort).
   */
  own(key: string, value: string | Buffer, options?: { readonly ttlSeconds?: number }): OwnedKey;
  /** Lists, then watches, for ever, over reconnects, compactions and data loss, until closed. */
  watchPrefix(prefix: string, sink: PrefixSink): PrefixWatch;
  close(): Promise<void>;
}

export interface OwnedKey {
  readonly key: string;
  /** True while the store is known to hold our present value under a live lease. */
  readonly written: boolean;
  readonly lastError: string | undefined;
  update(value: string | Buffer): void;
  /** `keep` leaves the key to its lease. */
  release(options?: { readonly keep?: boolean }): Promise<void>;
}
