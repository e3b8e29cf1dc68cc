import type { Condition, Transaction, TransactionResult } from '../kvstore/transaction.ts';

/** One term of a leader. */
export interface Leadership {
  /** Create revision of the leader's key: it grows from term to term and names this one. */
  readonly term: number;
  /** Aborts when the term is over. */
  readonly signal: AbortSignal;
  /** True in every transaction as long as this term lasts, whatever this process believes. */
  readonly conditions: readonly Condition[];
  /**
   * A transaction that is done only while this term lasts. `succeeded` speaks of the transaction's own conditions.
   * @throws MeshError HUB-NOT-LEADER when the term is over: nothing was done; KVS-* as `WriterStore.transact`
   */
  transact(transaction: Transaction): Promise<TransactionResult>;
}
