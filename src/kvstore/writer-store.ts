import { LeasedKeySet, type LeasedKeys, type LeasedKeysOptions } from './leased-keys.ts';
import { prefixEnd, type ResponseHeader } from './messages.ts';
import { openSession, type Session, type StoreOptions } from './session.ts';
import type { Store } from './store.ts';
import {
  decodeStoredRange,
  decodeTransaction,
  encodeTransaction,
  type StoredKeyValue,
  type Transaction,
  type TransactionResult,
} from './transaction.ts';
import { WireWriter } from './wire.ts';

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
  readPrefix(prefix: string): Promise<PrefixContent>;
  /** Keys that live as long as we do: see `LeasedKeys`. */
  leasedKeys(options: LeasedKeysOptions): LeasedKeys;
  /** For the messages that have no method here. */
  readonly session: Session;
}

export interface PrefixContent {
  readonly revision: number;
  readonly entries: readonly StoredKeyValue[];
}

const PAGE = 2000;

export function openWriterStore(options: StoreOptions): WriterStore {
  const session = openSession(options);
  const { request } = session;
  const transact = (transaction: Transaction): Promise<TransactionResult> =>
    request('KV/Txn', encodeTransaction(transaction), decodeTransaction);
  const readPrefix = (prefix: string): Promise<PrefixContent> => readPages(request, prefix);
  return {
    session,
    transact,
    readPrefix,
    async read(key) {
      const { kvs } = await request('KV/Range', new WireWriter().bytes(1, key).finish(), decodeStoredRange);
      return kvs[0];
    },
    leasedKeys: (keys) => new LeasedKeySet({ session, transact, readPrefix }, keys),
    get status() {
      return session.status;
    },
    onStatus: (listener) => session.onStatus(listener),
    networkChanged: () => session.networkChanged(),
    get: (key) => session.get(key),
    list: (prefix) => session.list(prefix),
    put: (key, value) => session.put(key, value),
    remove: (key) => session.remove(key),
    own: (key, value, own) => session.own(key, value, own),
    watchPrefix: (prefix, sink) => session.watchPrefix(prefix, sink),
    watchKey: (key, sink) => session.watchKey(key, sink),
    close: () => session.close(),
  };
}

async function readPages(request: Session['request'], prefix: string): Promise<PrefixContent> {
  const end = prefixEnd(prefix);
  const entries: StoredKeyValue[] = [];
  let from = prefix;
  let revision = 0;
  let limit = PAGE;
  for (;;) {
    const message = new WireWriter().bytes(1, from).bytes(2, end).uint(3, limit).uint(4, revision).uint(5, 1);
    const page: { header: ResponseHeader; kvs: readonly StoredKeyValue[]; more: boolean } = await request(
      'KV/Range',
      message.finish(),
      decodeStoredRange,
    );
    revision ||= page.header.revision;
    for (const kv of page.kvs) entries.push({ ...kv, key: kv.key.slice(prefix.length) });
    const last = page.kvs.at(-1);
    if (!page.more || last === undefined) return { revision, entries };
    from = `${last.key}\0`;
    // Pages of about a megabyte, whatever the size of the values.
    const bytes = page.kvs.reduce((sum, kv) => sum + kv.key.length + kv.value.length, 0);
    limit = Math.max(16, Math.min(PAGE * 2, Math.floor((page.kvs.length * (1 << 20)) / Math.max(1, bytes))));
  }
}
