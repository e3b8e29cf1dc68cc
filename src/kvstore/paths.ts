/** The key layout of the store (kvstore specification, section 1). Prefixes end with a slash. */
export const HEARTBEAT_KEY = 'cilium/.heartbeat';
export const CLUSTER_CONFIG_PREFIX = 'cilium/cluster-config/';
export const REGISTER_PREFIX = 'cilium/state/noderegister/v1/';
/** Policies that a hub hands out; ours, not Cilium's. */
export const POLICIES_PREFIX = 'mesh-agent/v1/policies/';
/** Clusters that a hub cannot reach at present, by name; ours, not Cilium's. */
export const LOST_PREFIX = 'mesh-agent/v1/lost/';
/** Services that run on machines of a hub, as an administrator wants them: `<namespace>/<name>`. */
export const MACHINE_SERVICES_PREFIX = 'mesh-agent/v1/services/';

export type FactKind = 'nodes' | 'endpoints' | 'identities' | 'services' | 'slices';
/** What a cluster writes unless its configuration says otherwise. */
export const FACT_KINDS: readonly FactKind[] = ['nodes', 'endpoints', 'identities', 'services'];

export const ALL_FACT_KINDS: readonly FactKind[] = [...FACT_KINDS, 'slices'];

const STORE_NAME: Record<FactKind, string> = {
  nodes: 'nodes',
  endpoints: 'ip',
  identities: 'identities',
  services: 'services',
  slices: 'endpointslices',
};

/** Where one cluster's facts are: in its own store, or in the cache that a KVStoreMesh keeps of it. */
export type Layout = 'direct' | 'cached';

export function factPrefix(kind: FactKind, cluster: string, layout: Layout): string {
  if (layout === 'cached')
    return `cilium/cache/${STORE_NAME[kind]}/v1/${cluster}/${kind === 'identities' ? 'id/' : ''}`;
  switch (kind) {
    case 'nodes':
      return `cilium/state/nodes/v1/${cluster}/`;
    // The address space is always the literal `default`, never the cluster.
    case 'endpoints':
      return 'cilium/state/ip/v1/default/';
    case 'identities':
      return 'cilium/state/identities/v1/id/';
    case 'services':
      return `cilium/state/services/v1/${cluster}/`;
    case 'slices':
      return `cilium/state/endpointslices/v1/${cluster}/`;
  }
}

export function canaryPrefix(cluster: string): string {
  return `cilium/synced/${cluster}/`;
}

/** The canary of a kind, relative to `canaryPrefix`. */
export function canaryName(kind: FactKind, layout: Layout): string {
  return `cilium/${layout === 'cached' ? 'cache' : 'state'}/${STORE_NAME[kind]}/v1`;
}

export function registerKey(node: string): string {
  return REGISTER_PREFIX + node;
}
