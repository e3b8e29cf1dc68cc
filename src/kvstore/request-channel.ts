import { channel } from 'node:diagnostics_channel';

/** One request to a store that has been answered, or has failed. */
export interface StoreRequest {
  /** `KV/Range`, `Lease/LeaseKeepAlive` */
  readonly method: string;
  readonly seconds: number;
  /** Of the error; absent when it was answered. */
  readonly code?: string;
}

/** Every request of every store of this process is told here; nobody has to listen. */
export const storeRequests = channel('mesh-agent:kvstore:request');
