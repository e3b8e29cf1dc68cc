import type { Config } from '../config/config.ts';
import { type EtcdOptions, readEtcdConfig } from '../kvstore/etcd-config.ts';
import { openStore, type StoreEvent } from '../kvstore/session.ts';
import type { Store } from '../kvstore/store.ts';

/** The store that the configuration names, read again at every connect; undefined when it names none. */
export function openJoinedStore(
  kvstore: Config['kvstore'],
  onEvent: (store: Store, event: StoreEvent) => void,
): Store | undefined {
  const { config, endpoints, ca, cert, key, username, password } = kvstore;
  if (config === undefined && endpoints.length === 0) return undefined;
  const fixed: EtcdOptions = {
    endpoints,
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
  };
  const store: Store = openStore({
    etcd: config === undefined ? async () => fixed : () => readEtcdConfig(config),
    endpoints,
    onEvent: (event) => onEvent(store, event),
  });
  return store;
}
