import type { Check } from '../check.ts';
import { judgeStore, STORE_CHECK } from './judge-store.ts';
import { type EndpointEvidence, probeEndpoint } from './probe-endpoint.ts';
import type { ConfiguredStore } from './store-list.ts';

export interface StoreChecksOptions {
  readonly stores: readonly ConfiguredStore[];
  /** When the running agent last saw the heartbeat of a cluster go on. */
  heartbeatSeenAt(cluster: string): number | undefined;
  /** Told of each store that was probed. */
  onProbed(store: ConfiguredStore, endpoints: readonly EndpointEvidence[]): void;
}

const MAX_ENDPOINTS = 8;

/** One check for each store. */
export function storeChecks({ stores, heartbeatSeenAt, onProbed }: StoreChecksOptions): Check[] {
  return stores.map((store) => ({
    ...STORE_CHECK,
    title: `store of ${store.name}`,
    look: async (signal) => {
      const { etcd } = store;
      const endpoints =
        etcd === undefined
          ? []
          : await Promise.all(
              etcd.endpoints
                .slice(0, MAX_ENDPOINTS)
                .map((endpoint) => probeEndpoint({ cluster: store.name, endpoint, etcd, signal })),
            );
      onProbed(store, endpoints);
      const seen = heartbeatSeenAt(store.name);
      return judgeStore({ store, endpoints, now: Date.now(), ...(seen !== undefined && { heartbeatSeenAt: seen }) });
    },
  }));
}
