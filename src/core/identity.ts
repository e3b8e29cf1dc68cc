/**
 * Numeric security identities (kvstore specification, section 3): a uint32 whose top byte is the scope. Scope 0 is
 * shared between clusters, scopes 1 and 2 are private to one agent and are never published.
 */
export type NumericIdentity = number & { readonly __brand: 'identity' };

export const identity = (value: number): NumericIdentity => value as NumericIdentity;

export const RESERVED = {
  unknown: identity(0),
  host: identity(1),
  world: identity(2),
  unmanaged: identity(3),
  health: identity(4),
  init: identity(5),
  remoteNode: identity(6),
  kubeApiserver: identity(7),
  ingress: identity(8),
  worldIpv4: identity(9),
  worldIpv6: identity(10),
} as const;

/** Labels of the reserved identities, kvstore specification 3.2; 7 also carries remote-node. */
export const RESERVED_LABELS: ReadonlyMap<NumericIdentity, readonly string[]> = new Map([
  [RESERVED.host, ['reserved:host']],
  [RESERVED.world, ['reserved:world']],
  [RESERVED.unmanaged, ['reserved:unmanaged']],
  [RESERVED.health, ['reserved:health']],
  [RESERVED.init, ['reserved:init']],
  [RESERVED.remoteNode, ['reserved:remote-node']],
  [RESERVED.kubeApiserver, ['reserved:kube-apiserver', 'reserved:remote-node']],
  [RESERVED.ingress, ['reserved:ingress']],
  [RESERVED.worldIpv4, ['reserved:world-ipv4']],
  [RESERVED.worldIpv6, ['reserved:world-ipv6']],
]);

/** First number of the node-local scope of CIDR and FQDN identities. */
export const LOCAL_SCOPE = 0x0100_0000;
export const REMOTE_NODE_SCOPE = 0x0200_0000;
export const MIN_ALLOCATABLE = 256;

export type MaxClusters = 255 | 511;

/** The inclusive block of a cluster: `id << 16` (255 clusters) or `id << 15` (511); cluster 0 starts at 256. */
export function identityBlock(clusterId: number, max: MaxClusters = 255): readonly [first: number, last: number] {
  const shift = max === 255 ? 16 : 15;
  const first = clusterId * 2 ** shift;
  return [clusterId === 0 ? MIN_ALLOCATABLE : first, first + 2 ** shift - 1];
}

export function isReserved(id: NumericIdentity): boolean {
  return id < MIN_ALLOCATABLE;
}
