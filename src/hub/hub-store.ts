import type { StoreEvent } from '../kvstore/session.ts';
import { openWriterStore, type WriterStore } from '../kvstore/writer-store.ts';
import type { HubConfig } from './config.ts';
import { ownEndpoint } from './etcd/arguments.ts';
import type { HubFolder } from './folder.ts';

/** The store of the hub, reached as its administrator. */
export type HubStore = WriterStore;

/** Where the store is, and how the hub shows who it is. Files are read again at every connect. */
export function storeAccess(config: HubConfig, folder: HubFolder) {
  const own = config.etcd.endpoints.length === 0;
  return {
    endpoints: own ? [ownEndpoint(config)] : config.etcd.endpoints,
    ca: (own ? undefined : config.etcd.ca) ?? folder.internal.cert,
    cert: folder.admin.cert,
    key: folder.admin.key,
  };
}

export function openHubStore(options: {
  readonly config: HubConfig;
  readonly folder: HubFolder;
  readonly onEvent: (event: StoreEvent) => void;
}): HubStore {
  const access = storeAccess(options.config, options.folder);
  return openWriterStore({
    etcd: async () => access,
    endpoints: access.endpoints,
    onEvent: options.onEvent,
    // The own etcd comes back in a second.
    timing: { retryMaxMs: 2000 },
  });
}
