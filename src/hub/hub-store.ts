import type { WriterStore } from '../kvstore/writer-store.ts';

/** The store of the hub, reached as its administrator. */
export type HubStore = WriterStore;
