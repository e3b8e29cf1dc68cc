import { MeshError } from '../core/errors.ts';
import type { MaxClusters } from '../core/identity.ts';
import { type ClusterConfig, decodeClusterConfig, factKinds } from '../kvstore/codec/cluster-config.ts';
import {
  ALL_FACT_KINDS,
  CLUSTER_CONFIG_PREFIX,
  canaryName,
  FACT_KINDS,
  type FactKind,
  factPrefix,
  type Layout,
} from '../kvstore/paths.ts';
import type { Store } from '../kvstore/store.ts';
import type { ClusterIds } from './cluster-ids.ts';
import { type ClusterProblem, ClusterSource } from './cluster-source.ts';
import { drainFacts, drainKind, FactSink, type FollowedCluster, factOrigin } from './fact-sinks.ts';
import type { Tables } from './tables.ts';

export type ClusterKind = 'joined' | 'remote' | 'cached';

export interface ClusterOptions {
  readonly name: string;
  readonly kind: ClusterKind;
  readonly store: Store;
  readonly tables: Tables;
  readonly ids: ClusterIds;
  /** The id that registration told, for the joined cluster. */
  readonly expectedId?: number;
  /** Something that status shows has changed. */
  readonly onChange: () => void;
}

interface Following {
  readonly cluster: FollowedCluster;
  readonly layout: Layout;
  readonly kinds: readonly FactKind[];
  readonly sinks: Map<FactKind, FactSink>;
  readonly synced: Set<FactKind>;
}

/**
 * Follows the facts of one cluster in one store: reserves the id that its configuration names, and takes each kind of fact into
 * the tables. Facts stay while the store is away, and while another store takes its place; they go when the cluster is no
 * longer followed.
 */
export class Cluster {
  readonly name: string;
  readonly #options: ClusterOptions;
  #kind: ClusterKind;
  #config: ClusterConfig | undefined;
  #following: Following | undefined;
  readonly #source: ClusterSource<FactKind>;

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.name = options.name;
    this.#kind = options.kind;
    this.#source = new ClusterSource<FactKind>({
      name: options.name,
      store: options.store,
      onChange: options.onChange,
      reader: {
        configured: (value) => this.#configured(value),
        unconfigured: () => this.#unconfigured(),
        sink: (kind, mayRemove) => this.#sink(kind, mayRemove),
        isPartial: (kind) => this.#following?.sinks.get(kind)?.partial === true,
        stopped: () => this.#stopped(),
      },
    });
  }

  get kind(): ClusterKind {
    return this.#kind;
  }

  get config(): ClusterConfig | undefined {
    return this.#config;
  }

  get id(): number | undefined {
    return this.#following?.cluster.id;
  }

  get problem(): ClusterProblem | undefined {
    return this.#source.problem;
  }

  /** What the cluster writes; until it has told, what all write. */
  get kinds(): readonly FactKind[] {
    return this.#following?.kinds ?? FACT_KINDS;
  }

  /** What a cluster does not write needs no list. */
  isSynced(kind: FactKind): boolean {
    const following = this.#following;
    return following !== undefined && (following.synced.has(kind) || !following.kinds.includes(kind));
  }

  /** Every kind was listed completely at least once since the cluster is followed, and its store was not lost since. */
  get synced(): boolean {
    return this.kinds.every((kind) => this.isSynced(kind));
  }

  get ready(): boolean {
    return this.synced && this.problem === undefined && this.#source.store.status.state === 'connected';
  }

  countOf(kind: FactKind): number {
    const following = this.#following;
    if (following === undefined) return 0;
    const origin = factOrigin(this.#options.tables, following.cluster);
    const { ipcache, identities, nodes, services, serviceSlices } = this.#options.tables;
    return { nodes, endpoints: ipcache, identities, services, slices: serviceSlices }[kind].countOf(origin);
  }

  /** What it waits for, in words; undefined when it is ready. */
  get waitingFor(): string | undefined {
    const { status } = this.#source.store;
    if (this.problem !== undefined) return this.problem.message;
    if (status.state !== 'connected') return status.summary;
    if (this.#following === undefined || (!this.#source.published && this.#config !== undefined && !this.synced))
      return `waiting for key ${CLUSTER_CONFIG_PREFIX}${this.name}, which the cluster's clustermesh-apiserver writes`;
    const missing = this.kinds.filter((kind) => !this.isSynced(kind));
    if (missing.length === 0) return undefined;
    const { unannounced } = this.#source;
    const awaited = missing.filter((kind) => unannounced.includes(kind));
    if (awaited.length === 0) return `listing ${missing.join(', ')}`;
    return `waiting for ${awaited.map((kind) => this.#source.canaryKey(kind)).join(', ')}: the store is not complete yet`;
  }

  /** The store has another data set now. Called before anything of it is listed. */
  dataLost(): void {
    this.#source.dataLost();
  }

  /** Goes on with another store; facts stay until the new one has listed them. Not from or to the joined cluster. */
  moveTo(store: Store, kind: ClusterKind = this.#kind): void {
    this.#kind = kind;
    this.#source.moveTo(store);
  }

  /** Tries a refused configuration again: the id may be free by now. */
  retry(): void {
    this.#source.retry();
  }

  /** Ends following. `drain` takes its facts out of the tables, and only then another cluster may have its id. */
  close(options: { readonly drain: boolean }): void {
    this.#source.close();
    this.#forget(options);
    if (options.drain) this.#options.ids.release(this.name);
  }

  #configured(value: Buffer): void {
    const config = decodeClusterConfig(value);
    this.#check(config);
    const { id, maxConnectedClusters: max } = config;
    this.#options.ids.reserve(this.name, id, { max, onEvicted: (error) => this.#evicted(error) });
    this.#config = config;
    this.#follow({ id, max, layout: this.#layout(config), kinds: factKinds(config) });
  }

  #check(config: ClusterConfig): void {
    const { expectedId } = this.#options;
    if (expectedId !== undefined && expectedId !== config.id) {
      throw new MeshError(
        'MSH-CLUSTER-ID',
        `cluster ${this.name} says that its id is ${config.id}, but we were registered with id ${expectedId}`,
      );
    }
    // What is not below the cache prefixes of that store is the joined cluster's own.
    if (this.#kind === 'cached' && !config.cached)
      throw new MeshError('MSH-CONFIG', `cluster ${this.name} is no longer announced as cached`);
  }

  /** Older clusters publish no configuration of their own; what registration told is enough for the one we joined. */
  #unconfigured(): void {
    const { ids, expectedId } = this.#options;
    if (this.#kind !== 'joined' || expectedId === undefined || this.#following !== undefined) return;
    // One that is there and refused is no reason to read on.
    if (this.#config !== undefined) return;
    ids.reserve(this.name, expectedId, { onEvicted: (error) => this.#evicted(error) });
    this.#follow({ id: expectedId, max: 255, layout: 'direct', kinds: FACT_KINDS });
  }

  #layout(config: ClusterConfig): Layout {
    return this.#kind !== 'joined' && config.cached ? 'cached' : 'direct';
  }

  #follow(wanted: { id: number; max: MaxClusters; layout: Layout; kinds: readonly FactKind[] }): void {
    const now = this.#following;
    const { layout, kinds } = wanted;
    const cluster = { name: this.name, id: wanted.id, max: wanted.max, joined: this.#kind === 'joined' };
    const same = now?.cluster.id === wanted.id && now.cluster.max === wanted.max;
    // Data under another id are another cluster's: they go first.
    if (!same) this.#unfollow();
    const dropped = same ? now.kinds.filter((kind) => !kinds.includes(kind)) : [];
    if (!same || now.layout !== layout || dropped.length > 0) {
      this.#source.stop();
      if (now !== undefined) this.#clearQuarantine(now.layout);
    }
    // What it has listed counts on, unless it was stopped.
    const kept = same && now.layout === layout ? now : { sinks: new Map(), synced: new Set<FactKind>() };
    this.#following = { cluster, layout, kinds, sinks: kept.sinks, synced: kept.synced };
    for (const kind of dropped)
      drainKind(this.#options.tables, cluster, { kind, prefix: factPrefix(kind, this.name, layout) });
    this.#source.follow({
      kinds,
      gated: this.#config?.syncedCanaries === true,
      canary: (kind) => canaryName(kind, layout),
      prefix: (kind) => factPrefix(kind, this.name, layout),
    });
  }

  #sink(kind: FactKind, mayRemove: () => boolean): FactSink {
    const { cluster, layout, sinks, synced } = this.#following as Following;
    const sink: FactSink = new FactSink(this.#options.tables, cluster, {
      kind,
      prefix: factPrefix(kind, this.name, layout),
      mayRemove,
      onListed: () => {
        if (sinks.get(kind) !== sink) return;
        synced.add(kind);
        this.#options.onChange();
      },
    });
    sinks.set(kind, sink);
    return sink;
  }

  #stopped(): void {
    this.#following?.sinks.clear();
    this.#following?.synced.clear();
  }

  #unfollow(): void {
    this.#source.unfollow();
    this.#forget({ drain: true });
  }

  #forget({ drain }: { readonly drain: boolean }): void {
    const following = this.#following;
    this.#following = undefined;
    if (!drain || following === undefined) return;
    drainFacts(this.#options.tables, following.cluster, (kind) => factPrefix(kind, this.name, following.layout));
  }

  #clearQuarantine(layout: Layout): void {
    const { quarantine } = this.#options.tables;
    for (const kind of ALL_FACT_KINDS) quarantine.clearBelow(this.name, factPrefix(kind, this.name, layout));
  }

  /** The local cluster has this id, or these identities. */
  #evicted(error: MeshError): void {
    this.#unfollow();
    this.#source.fail(error.code, error.message);
  }
}
