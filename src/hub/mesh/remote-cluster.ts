import { MeshError } from '../../core/errors.ts';
import { identityBlock } from '../../core/identity.ts';
import type { Prefix } from '../../core/ip.ts';
import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import { CLUSTER_CONFIG_PREFIX, type Layout } from '../../kvstore/paths.ts';
import type { PrefixSink, Store } from '../../kvstore/store.ts';
import type { ClusterIds } from '../../mesh/cluster-ids.ts';
import { type ClusterProblem, ClusterSource } from '../../mesh/cluster-source.ts';
import { type Admission, openAdmission } from './admission.ts';
import { Budget, type BudgetLimits } from './budget.ts';
import { CACHE_KINDS, type CacheKind, cacheCanary, canaryTail, sourcePrefix } from './kinds.ts';
import type { OwnedAddresses } from './owned-addresses.ts';
import { decodeRemoteConfig, followedKinds, type RemoteConfig } from './remote-config.ts';
import { Replica } from './replica.ts';

export interface RemoteClusterOptions {
  readonly name: string;
  readonly store: Store;
  /** Size of the mesh, which every cluster must agree on. */
  readonly max: 255 | 511;
  readonly ids: ClusterIds;
  readonly addresses: OwnedAddresses;
  readonly budget: BudgetLimits;
  /** Keys below the cache of this cluster. */
  readonly leasedKeys: (kind: CacheKind) => LeasedKeys;
  /** Keys of cluster-configs and canaries of all clusters. */
  readonly announcements: LeasedKeys;
  readonly onRanges: (node: string, ranges: readonly Prefix[]) => void;
  readonly onChange: () => void;
}

interface Following {
  readonly config: RemoteConfig;
  readonly kinds: readonly CacheKind[];
  readonly admission: Admission;
}

/**
 * One connected cluster: its configuration, then kind by kind what it has, is copied into our store (kvstore specification 4.3
 * to 4.7 and 5). What was copied stays while the source is away, for as long as it takes, and while a source that lost its
 * data fills itself again.
 */
export class RemoteCluster {
  readonly name: string;
  readonly budget: Budget;
  readonly #options: RemoteClusterOptions;
  readonly #replicas: ReadonlyMap<CacheKind, Replica>;
  readonly #source: ClusterSource<CacheKind>;
  /** Kinds that are complete in our store, with the canary that says so. */
  readonly #announced = new Set<CacheKind>();
  /** Nodes that encrypt. */
  readonly #encrypting = new Set<string>();
  #following: Following | undefined;
  #closed = false;

  constructor(options: RemoteClusterOptions) {
    this.#options = options;
    this.name = options.name;
    this.budget = new Budget(options.budget);
    // All of them, at once: keys that a leader before us wrote live as long as someone keeps their leases.
    this.#replicas = new Map(CACHE_KINDS.map((kind) => [kind, this.#replica(kind)]));
    this.#source = new ClusterSource<CacheKind>({
      name: options.name,
      store: options.store,
      onChange: options.onChange,
      reader: {
        configured: (value) => this.#configured(value),
        sink: (kind, mayRemove) => this.#sink(kind, mayRemove),
        isPartial: (kind) => this.replica(kind).partial,
        stopped: () => this.#stopped(),
      },
    });
  }

  get store(): Store {
    return this.#source.store;
  }

  get config(): RemoteConfig | undefined {
    return this.#following?.config;
  }

  /** The source has a configuration now, good or not. */
  get configured(): boolean {
    return this.#source.published;
  }

  get problem(): ClusterProblem | undefined {
    return this.#source.problem;
  }

  get replicas(): Iterable<Replica> {
    return this.#replicas.values();
  }

  replica(kind: CacheKind): Replica {
    return this.#replicas.get(kind) as Replica;
  }

  /** Kinds that the cluster writes; until it has told, those that all have. */
  get kinds(): readonly CacheKind[] {
    return this.#following?.kinds ?? ['identities', 'nodes', 'ip', 'services'];
  }

  isSynced(kind: CacheKind): boolean {
    return this.#announced.has(kind);
  }

  /** Everything that it announced is in our store. */
  get synced(): boolean {
    return this.#following !== undefined && this.kinds.every((kind) => this.isSynced(kind));
  }

  get ready(): boolean {
    return this.synced && this.problem === undefined && this.store.status.state === 'connected';
  }

  /** How many nodes encrypt what they send to other nodes. */
  get encryptingNodes(): number {
    return this.#encrypting.size;
  }

  /** Whole keys of canaries that the source has not written. */
  get missingCanaries(): readonly string[] {
    if (!this.#source.canariesListed) return [];
    return this.#source.unannounced.map((kind) => this.#source.canaryKey(kind));
  }

  /** Goes on with another connection; what was copied stays until the new one has listed it. */
  moveTo(store: Store): void {
    this.#source.moveTo(store);
  }

  /** The source has another data set. Called before anything of it is listed. */
  dataLost(): void {
    this.#source.dataLost();
  }

  /** Tries a refused configuration again: the id may be free by now. */
  retry(): void {
    this.#source.retry();
  }

  /** Reads a kind again: what was refused may be good now. */
  readAgain(kind: CacheKind): void {
    this.#source.readAgain(kind);
  }

  /** Ends following. What was copied is kept with its leases, or left to the one who removes it. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#source.close();
    await Promise.all([...this.#replicas.values()].map((replica) => replica.close({ keep: true })));
  }

  #replica(kind: CacheKind): Replica {
    const { leasedKeys, onChange } = this.#options;
    return new Replica({
      kind,
      cluster: this.name,
      keys: leasedKeys(kind),
      budget: this.budget,
      onStored: () => this.#stored(kind),
      onChange,
    });
  }

  #configured(value: Buffer): void {
    const config = decodeRemoteConfig(value);
    this.#check(config);
    const { id, maxConnectedClusters: max } = config;
    const onEvicted = (error: MeshError): void => this.#source.fail(error.code, error.message);
    this.#options.ids.reserve(this.name, id, { max, onEvicted });
    this.#follow(config);
  }

  /** Whoever disagrees on the size of the mesh means other clusters by the same identities. */
  #check({ maxConnectedClusters }: RemoteConfig): void {
    const { max } = this.#options;
    if (maxConnectedClusters !== max)
      throw new MeshError(
        'MSH-CLUSTER-ID',
        `cluster ${this.name} has maxConnectedClusters ${maxConnectedClusters}, but the hub has ${max}`,
      );
  }

  #follow(config: RemoteConfig): void {
    const { announcements, addresses, onRanges } = this.#options;
    const before = this.#following;
    const layout: Layout = config.cached ? 'cached' : 'direct';
    // Data under another id are another cluster's: they go first.
    if (before !== undefined && before.config.id !== config.id) this.#drain();
    announcements.set(CLUSTER_CONFIG_PREFIX + this.name, config.cachedText);
    // The text is the same for a source that is a cache and for one that is not.
    if (before?.config.cachedText !== config.cachedText || before.config.cached !== config.cached) {
      this.#source.stop();
      const block = identityBlock(config.id, config.maxConnectedClusters);
      const onEncryption = (node: string, encrypts: boolean): void => this.#encryption(node, encrypts);
      const admission = openAdmission({ cluster: this.name, block, addresses, onRanges, onEncryption });
      this.#following = { config, kinds: followedKinds(config), admission };
    }
    const { kinds } = this;
    // KVStoreMesh writes the canary of service exports even for clusters that know none (specification 1.4).
    for (const kind of CACHE_KINDS) if (!kinds.includes(kind) && !this.replica(kind).stored) this.replica(kind).empty();
    this.#source.follow({
      kinds,
      gated: config.syncedCanaries,
      canary: (kind) => canaryTail(kind, layout),
      prefix: (kind) => sourcePrefix(kind, this.name, layout),
    });
  }

  #encryption(node: string, encrypts: boolean): void {
    if (encrypts === this.#encrypting.has(node)) return;
    if (encrypts) this.#encrypting.add(node);
    else this.#encrypting.delete(node);
    this.#options.onChange();
  }

  #sink(kind: CacheKind, mayRemove: () => boolean): PrefixSink {
    const { admission } = this.#following as Following;
    return this.replica(kind).sink({ admission, mayRemove });
  }

  #stored(kind: CacheKind): void {
    const { announcements } = this.#options;
    const following = this.#following;
    if (this.#closed || following === undefined) return;
    if (!following.kinds.includes(kind) && kind !== 'serviceexports') return;
    const key = cacheCanary(kind, this.name);
    // A reader looks at its existence alone: the first one stays.
    if (announcements.get(key) === undefined) announcements.set(key, now());
    announcements.settled().then(
      () => {
        if (this.#closed || !this.replica(kind).stored) return;
        this.#announced.add(kind);
        this.#options.onChange();
      },
      // Closed, or this hub does not lead any more.
      () => {},
    );
  }

  #stopped(): void {
    this.#announced.clear();
    for (const replica of this.#replicas.values()) replica.restart();
  }

  #drain(): void {
    this.#source.stop();
    this.#options.addresses.drop(this.name);
    this.#encrypting.clear();
    for (const kind of CACHE_KINDS) {
      this.#options.announcements.remove(cacheCanary(kind, this.name));
      this.replica(kind).clear();
    }
  }
}

/** RFC 3339, as Cilium writes it. */
function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
