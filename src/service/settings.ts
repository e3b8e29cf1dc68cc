/** What the machine's own configuration says of services. The store has no word of it: affinity is the consumer's. */
export interface ServiceSettings {
  /** By `<namespace>/<name>`; what is not named has none. */
  readonly affinity: ReadonlyMap<string, 'none' | 'local' | 'remote'>;
  /** The cluster that counts as local; the joined one when undefined. */
  readonly local: string | undefined;
  /** Backends of a lost cluster: the last resort (`keep`), or out (`remove`). */
  readonly onClusterLoss: 'keep' | 'remove';
  /** `<namespace>/<name>` of services whose clients stay with one backend. */
  readonly sticky: ReadonlySet<string>;
  /** Weight of each backend of a cluster; 1 when not named, 0 for no new connections. */
  readonly weights: ReadonlyMap<string, number>;
  /** Chooses this machine's share of a service with more backends than fit: its name. */
  readonly machine: string;
}

export const DEFAULT_SETTINGS: ServiceSettings = {
  affinity: new Map(),
  local: undefined,
  onClusterLoss: 'keep',
  sticky: new Set(),
  weights: new Map(),
  machine: '',
};
