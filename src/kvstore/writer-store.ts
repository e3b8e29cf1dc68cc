import type { LeasedKeys, LeasedKeysOptions } from './leased-keys.ts';
import type { Store } from './store.ts';
import type { StoredKeyValue, Transaction, TransactionResult } from './transaction.ts';

/** A store for those who write much, and together with others. */
export interface WriterStore extends Store {
  /**
   * One transaction. A connection that breaks in between rejects with KVS-LOST or KVS-TIMEOUT, and then nobody knows
   * whether it was done: read again before it is repeated.
   * @throws MeshError KVS-*
   */
  transact(transaction: Transaction): Promise<TransactionResult>;
  /** One key with all of its revisions, read through the quorum. */
  read(key: string): Promise<StoredKeyValue | undefined>;
  /** Everything under a prefix at one revision, by keys relative to it, read page by page. */
  readPrefix(prefix: string): Promise<{ readonly revision: number; readonly entries: readonly StoredKeyValue[] }>;
  /** Keys that live as long as we do: see `LeasedKeys`. */
  leasedKeys(options: LeasedKeysOptions): LeasedKeys;
}
