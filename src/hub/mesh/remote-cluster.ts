import { type ErrorCode, MeshError, messageOf } from '../../core/errors.ts';
import { identityBlock } from '../../core/identity.ts';
import type { Prefix } from '../../core/ip.ts';
import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import { CLUSTER_CONFIG_PREFIX, canaryPrefix, type Layout } from '../../kvstore/paths.ts';
import type { PrefixWatch, Store } from '../../kvstore/store.ts';
import type { ClusterIds } from '../../mesh/cluster-ids.ts';
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

export interface RemoteProblem {
  readonly code: ErrorCode;
  readonly message: string;
  readonly since: number;
}

interface Following {
  readonly config: RemoteConfig;
  readonly layout: Layout;
  readonly kinds: readonly CacheKind[];
  readonly admission: Admission;
  readonly watches: Map<CacheKind, PrefixWatch>;
}

/**
 * One connected cluster: its configuration, then kind by kind, each when its canary says that the source is complete, is
 * copied into our store (kvstore specification 4.3 to 4.7 and 5). What was copied stays while the source is away, for as
 * long as it takes, and while a source that lost its data fills itself again.
 */
export class RemoteCluster {
  readonly name: string;
  readonly budget: Budget;
  readonly #options: RemoteClusterOptions;
  readonly #replicas: ReadonlyMap<CacheKind, Replica>;
  #store: Store;
  #configWatch: PrefixWatch;
  #canaryWatch: PrefixWatch | undefined;
  #canaries = new Set<string>();
  /** Kinds that are complete in our store, with the canary that says so. */
  readonly #announced = new Set<CacheKind>();
  #following: Following | undefined;
  /** As it is at the source, to try it again. */
  #published: Buffer | undefined;
  #problem: RemoteProblem | undefined;
  #closed = false;

  constructor(options: RemoteClusterOptions) {
    this.#options = options;
    this.name = options.name;
    this.budget = new Budget(options.budget);
    this.#store = options.store;
    // All of them, at once: keys that a leader before us wrote live as long as someone keeps their leases.
    this.#replicas = new Map(CACHE_KINDS.map((kind) => [kind, this.#replica(kind)]));
    this.#configWatch = this.#watchConfig();
  }

  get store(): Store {
    return this.#store;
  }

  get config(): RemoteConfig | undefined {
    return this.#following?.config;
  }

  /** The source has a configuration now, good or not. */
  get configured(): boolean {
    return this.#published !== undefined;
  }

  get problem(): RemoteProblem | undefined {
    return this.#problem;
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
    return this.synced && this.#problem === undefined && this.#store.status.state === 'connected';
  }

  /** Whole keys of canaries that the source has not written. */
  get missingCanaries(): readonly string[] {
    const following = this.#following;
    if (following === undefined || this.#canaryWatch?.synced !== true) return [];
    return following.kinds
      .filter((kind) => !this.#isAnnounced(kind, following))
      .map((kind) => canaryPrefix(this.name) + canaryTail(kind, following.layout));
  }

  /** Goes on with another connection; what was copied stays until the new one has listed it. */
  moveTo(store: Store): void {
    this.#configWatch.close();
    this.#forgetCanaries();
    this.#stopWatches();
    this.#store = store;
    this.#published = undefined;
    this.#problem = undefined;
    this.#configWatch = this.#watchConfig();
    this.#options.onChange();
  }

  /** The source has another data set. Called before anything of it is listed. */
  dataLost(): void {
    this.#canaries = new Set();
    if (this.#following?.config.syncedCanaries !== true) return;
    this.#stopWatches();
    this.#options.onChange();
  }

  /** Tries a refused configuration again: the id may be free by now. */
  retry(): void {
    if (this.#problem !== undefined && this.#published !== undefined) this.#configured(this.#published);
  }

  /** Reads a kind again: what was refused may be good now. */
  readAgain(kind: CacheKind): void {
    const following = this.#following;
    const watch = following?.watches.get(kind);
    if (following === undefined || watch === undefined) return;
    watch.close();
    this.#start(kind, following);
  }

  /** Ends following. What was copied is kept with its leases, or left to the one who removes it. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#configWatch.close();
    this.#forgetCanaries();
    for (const watch of this.#following?.watches.values() ?? []) watch.close();
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

  #watchConfig(): PrefixWatch {
    let found = false;
    return this.#store.watchKey(CLUSTER_CONFIG_PREFIX + this.name, {
      listing: () => {
        found = false;
      },
      put: (_, value) => {
        found = true;
        this.#published = Buffer.from(value);
        this.#configured(this.#published);
      },
      remove: () => this.#withdrawn(),
      listed: () => {
        if (!found) this.#withdrawn();
        this.#options.onChange();
      },
    });
  }

  /** A source that is being filled again has no configuration for a while. */
  #withdrawn(): void {
    this.#published = undefined;
    this.#problem = undefined;
    this.#options.onChange();
  }

  #configured(value: Buffer): void {
    if (this.#closed) return;
    try {
      const config = decodeRemoteConfig(value);
      this.#check(config);
      const { id, maxConnectedClusters: max } = config;
      this.#options.ids.reserve(this.name, id, { max, onEvicted: (error) => this.#fail(error.code, error.message) });
      this.#problem = undefined;
      this.#follow(config);
    } catch (error) {
      this.#fail(error instanceof MeshError ? error.code : 'MSH-CONFIG', messageOf(error));
    }
    this.#options.onChange();
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
    if (before?.config.cachedText !== config.cachedText || before.layout !== layout) {
      this.#stopWatches();
      const block = identityBlock(config.id, config.maxConnectedClusters);
      const admission = openAdmission({ cluster: this.name, block, addresses, onRanges });
      this.#following = { config, layout, kinds: followedKinds(config), admission, watches: new Map() };
    }
    this.#canaryWatch ??= this.#watchCanaries();
    this.#startAnnounced();
  }

  #watchCanaries(): PrefixWatch {
    return this.#store.watchPrefix(canaryPrefix(this.name), {
      listing: () => {
        this.#canaries = new Set();
      },
      put: (key) => {
        this.#canaries.add(key);
        this.#startAnnounced();
      },
      remove: (key) => void this.#canaries.delete(key),
      listed: () => this.#options.onChange(),
    });
  }

  #isAnnounced(kind: CacheKind, { config, layout }: Following): boolean {
    return !config.syncedCanaries || this.#canaries.has(canaryTail(kind, layout));
  }

  #startAnnounced(): void {
    const following = this.#following;
    if (following === undefined || this.#closed) return;
    for (const kind of CACHE_KINDS) {
      const watch = following.watches.get(kind);
      if (!following.kinds.includes(kind)) {
        // KVStoreMesh writes the canary of service exports even for clusters that know none (specification 1.4).
        if (!this.replica(kind).stored) this.replica(kind).empty();
      } else if (this.#isAnnounced(kind, following)) {
        if (watch !== undefined && !this.replica(kind).partial) continue;
        watch?.close();
        this.#start(kind, following);
      }
    }
  }

  #start(kind: CacheKind, following: Following): void {
    const { admission, layout, watches } = following;
    // A canary that vanished means that the source is being filled again: what is not there may be still to come.
    const mayRemove = (): boolean => this.#isAnnounced(kind, following);
    const sink = this.replica(kind).sink({ admission, mayRemove });
    watches.set(kind, this.#store.watchPrefix(sourcePrefix(kind, this.name, layout), sink));
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

  #stopWatches(): void {
    for (const watch of this.#following?.watches.values() ?? []) watch.close();
    this.#following?.watches.clear();
    this.#announced.clear();
    for (const replica of this.#replicas.values()) replica.restart();
  }

  #forgetCanaries(): void {
    this.#canaryWatch?.close();
    this.#canaryWatch = undefined;
    this.#canaries = new Set();
  }

  #drain(): void {
    this.#stopWatches();
    this.#options.addresses.drop(this.name);
    for (const kind of CACHE_KINDS) {
      this.#options.announcements.remove(cacheCanary(kind, this.name));
      this.replica(kind).clear();
    }
  }

  #fail(code: ErrorCode, message: string): void {
    if (this.#problem?.message === message) return;
    this.#problem = { code, message, since: this.#problem?.since ?? Date.now() };
    this.#options.onChange();
  }
}

/** RFC 3339, as Cilium writes it. */
function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
