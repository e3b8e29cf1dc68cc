import { prefixEnd } from '../../kvstore/messages.ts';
import { CLUSTER_CONFIG_PREFIX } from '../../kvstore/paths.ts';
import { decodeStoredRange } from '../../kvstore/transaction.ts';
import { WireWriter } from '../../kvstore/wire.ts';
import type { WriterStore } from '../../kvstore/writer-store.ts';
import { CACHE_KINDS, cacheRoot } from './kinds.ts';
import { decodeRemoteConfig, type RemoteConfig } from './remote-config.ts';

export interface CachedCluster {
  readonly name: string;
  /** Undefined when the cache is all that is left of it. */
  readonly config: RemoteConfig | undefined;
}

/** Clusters of which our store has a cache: what a leader before us left. */
export async function readCachedClusters(store: WriterStore): Promise<readonly CachedCluster[]> {
  const configs = new Map<string, RemoteConfig>();
  for (const { key, value } of (await store.readPrefix(CLUSTER_CONFIG_PREFIX)).entries) {
    try {
      const config = decodeRemoteConfig(value);
      if (config.cached) configs.set(key, config);
    } catch {
      // Not of our making.
    }
  }
  const names = new Set(configs.keys());
  for (const kind of CACHE_KINDS) for (const name of await namesUnder(store, cacheRoot(kind))) names.add(name);
  return [...names].map((name) => ({ name, config: configs.get(name) }));
}

/** The next component of the keys below a prefix; one request for each, however many keys there are. */
async function namesUnder(store: WriterStore, prefix: string): Promise<readonly string[]> {
  const names: string[] = [];
  const end = prefixEnd(prefix);
  let from: string | Buffer = prefix;
  for (;;) {
    // keys_only: a value may be as long as a megabyte.
    const message: WireWriter = new WireWriter().bytes(1, from).bytes(2, end).uint(3, 1).bool(8, true);
    const page: ReturnType<typeof decodeStoredRange> = await store.session.request(
      'KV/Range',
      message.finish(),
      decodeStoredRange,
    );
    const key: string | undefined = page.kvs[0]?.key.slice(prefix.length);
    if (key === undefined) return names;
    const [name = ''] = key.split('/');
    names.push(name);
    from = key.includes('/') ? prefixEnd(`${prefix}${name}/`) : `${prefix}${name}\0`;
  }
}
