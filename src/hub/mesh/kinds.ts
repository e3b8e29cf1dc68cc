import { type FactKind, factPrefix, type Layout } from '../../kvstore/paths.ts';

/** What KVStoreMesh copies, by its name in keys (kvstore specification 5.1), in the order in which others need it. */
export const CACHE_KINDS = ['identities', 'nodes', 'ip', 'services', 'serviceexports', 'endpointslices'] as const;
export type CacheKind = (typeof CACHE_KINDS)[number];

const FACTS: Partial<Record<CacheKind, FactKind>> = {
  identities: 'identities',
  nodes: 'nodes',
  ip: 'endpoints',
  services: 'services',
  endpointslices: 'slices',
};

/** Where a cluster's own store, or the cache that it was copied from, has this kind. */
export function sourcePrefix(kind: CacheKind, cluster: string, layout: Layout): string {
  const fact = FACTS[kind];
  if (fact !== undefined) return factPrefix(fact, cluster, layout);
  return `cilium/${layout === 'cached' ? 'cache' : 'state'}/${kind}/v1/${cluster}/`;
}

/** Where its copy is in our store. */
export function cachePrefix(kind: CacheKind, cluster: string): string {
  return sourcePrefix(kind, cluster, 'cached');
}

/** Everything of a kind and cluster that a KVStoreMesh ever wrote: those up to 1.17 copied `value/` as well. */
export function cacheFolder(kind: CacheKind, cluster: string): string {
  return `${cacheRoot(kind)}${cluster}/`;
}

/** Above the clusters. */
export function cacheRoot(kind: CacheKind): string {
  return `cilium/cache/${kind}/v1/`;
}

/** Relative to `cilium/synced/<cluster>/`. */
export function canaryTail(kind: CacheKind, layout: Layout): string {
  return `cilium/${layout === 'cached' ? 'cache' : 'state'}/${kind}/v1`;
}

export function cacheCanary(kind: CacheKind, cluster: string): string {
  return `cilium/synced/${cluster}/${canaryTail(kind, 'cached')}`;
}
