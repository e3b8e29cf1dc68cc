import type { StoreEvent } from '../kvstore/session.ts';
import type { Store } from '../kvstore/store.ts';

/** Told of every event of every store, with the cluster that the store belongs to (empty: the joined one). */
export type StoreEvents = (cluster: string, store: Store, event: StoreEvent) => void;
