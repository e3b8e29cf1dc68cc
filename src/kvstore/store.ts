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
 * hold a million keys compactly). Between `listing` and `listed` nothing must be removed. A list that breaks off starts
 * again: `listing` may come twice before `listed`. A disconnect calls nothing: facts stay. Keys are relative to the
 * prefix; a key that is watched alone is the empty string. A sink must not throw; what it throws is logged and the key
 * is skipped.
 */
export interface PrefixSink {
  listing(): void;
  /**
   * `value` is a view into a message of up to a megabyte, valid during the call only: whoever keeps it, or a `subarray`
   * of it, pins the whole message. Keep what was decoded from it, or a copy. Strings are copies. `lease` is zero for none.
   */
  put(key: string, value: Buffer, modRevision: number, lease: bigint): void;
  remove(key: string): void;
  listed(): void;
}

export interface PrefixWatch {
  /** True once the first list is complete; stays true while disconnected. */
  readonly synced: boolean;
  /** Lists so far: more than one means disconnects, compactions or lost data. */
  readonly lists: number;
  /** Why it is not followed at present: refused, canceled. Undefined once it is. */
  readonly lastError: string | undefined;
  close(): void;
}

/** Something that is wrong now. It vanishes when it is over. */
export interface StoreTrouble {
  /** `connection`, `quorum`, `heartbeat`, `watch <path>` or `key <key>`. */
  readonly subject: string;
  readonly code: string;
  readonly message: string;
  /** Since when, milliseconds since the epoch. */
  readonly since: number;
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
  /** The last real heartbeat; undefined when none was seen, or when this store is not watched for it. */
  readonly lastHeartbeat: number | undefined;
  readonly reconnections: number;
  readonly failures: number;
  readonly lastFailure: { readonly at: number; readonly code: string; readonly message: string } | undefined;
  /** What is wrong now, the gravest first. A connected store may have troubles: a refused prefix, a stale heartbeat. */
  readonly troubles: readonly StoreTrouble[];
  readonly leases: number;
  /** One line, in the words of `cilium-dbg status`. */
  readonly summary: string;
}

export interface Store {
  readonly status: StoreStatus;
  /** Called on every change of `status.state`, `status.endpoint`, quorum, troubles or failure. */
  onStatus(listener: () => void): () => void;
  /**
   * One key, read through the quorum. Waits for a connection as long as a request may take.
   * @throws MeshError KVS-*
   */
  get(key: string): Promise<KeyValue | undefined>;
  /** All keys under a prefix at one revision, relative keys, copied, read page by page. For prefixes that fit in memory. */
  list(prefix: string): Promise<KeyValue[]>;
  /** A plain put without a lease. */
  put(key: string, value: string | Buffer): Promise<void>;
  remove(key: string): Promise<boolean>;
  /**
   * Owns a key: writes it under a lease that is kept alive (15 minutes unless `ttlSeconds` says otherwise), for as long as
   * the handle is open. A key that vanished (lease lost, data lost, deleted) is written again within a second or so. A
   * value that another writer put in its place is an answer and stays, until `update` or until it vanishes.
   */
  own(key: string, value: string | Buffer, options?: { readonly ttlSeconds?: number }): OwnedKey;
  /** Lists, then watches, for ever, over reconnects, compactions and data loss, until closed. */
  watchPrefix(prefix: string, sink: PrefixSink): PrefixWatch;
  /** The same for exactly one key, with no wider access right than that. The sink knows the key as the empty string. */
  watchKey(key: string, sink: PrefixSink): PrefixWatch;
  /**
   * The network of this machine changed: a connection that does not answer soon is made anew, instead of waiting for its
   * pings to fail, and one that is to be made is tried at once.
   */
  networkChanged(): void;
  close(): Promise<void>;
}

export interface OwnedKey {
  readonly key: string;
  /** True while the store is known to hold our present value under a live lease, or another writer's answer to it. */
  readonly written: boolean;
  readonly lastError: string | undefined;
  /** Replaces the value, and whatever another writer put there. */
  update(value: string | Buffer): void;
  /** Renews its lease so often, in seconds, for whoever looks at it to see that we live; undefined: as often as it has to be. */
  renewEvery(seconds: number | undefined): void;
  /** Removes the key (best effort); `keep` leaves it to its lease. */
  release(options?: { readonly keep?: boolean }): Promise<void>;
}
