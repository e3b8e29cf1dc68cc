import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import type { MaxClusters } from '../core/identity.ts';
import { type ClusterConfig, decodeClusterConfig } from '../kvstore/codec/cluster-config.ts';
import {
  CLUSTER_CONFIG_PREFIX,
  canaryName,
  canaryPrefix,
  FACT_KINDS,
  type FactKind,
  factPrefix,
  type Layout,
} from '../kvstore/paths.ts';
import type { PrefixWatch, Store } from '../kvstore/store.ts';
import type { ClusterIds } from './cluster-ids.ts';
import { drainFacts, FactSink, type FollowedCluster, factOrigin } from './fact-sinks.ts';
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

export interface ClusterProblem {
  readonly code: ErrorCode;
  readonly message: string;
  readonly since: number;
}

interface Following {
  readonly cluster: FollowedCluster;
  readonly layout: Layout;
  readonly watches: Map<FactKind, { readonly watch: PrefixWatch; readonly sink: FactSink }>;
  readonly synced: Set<FactKind>;
}

/**
 * Follows the facts of one cluster in one store: reads its configuration, reserves its id, and watches each kind of fact
 * from when its canary says that the store is complete (kvstore specification 4.3, 4.6). Facts stay while the store is away,
 * and while another store takes its place; they go when the cluster is no longer followed. A store that lost its data is
 * not believed before its canaries are back.
 *
 *   configuration ──▶ id reserved ──▶ canary of a kind ──▶ list + watch ──▶ synced
 */
export class Cluster {
  readonly name: string;
  readonly #options: ClusterOptions;
  #kind: ClusterKind;
  #store: Store;
  #configWatch: PrefixWatch;
  /** The published configuration as it is in the store, to try it again. */
  #published: Buffer | undefined;
  #config: ClusterConfig | undefined;
  #following: Following | undefined;
  #canaries = new Set<string>();
  #canaryWatch: PrefixWatch | undefined;
  #problem: ClusterProblem | undefined;
  #closed = false;

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.name = options.name;
    this.#kind = options.kind;
    this.#store = options.store;
    this.#configWatch = this.#watchConfig();
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
    return this.#problem;
  }

  isSynced(kind: FactKind): boolean {
    return this.#following?.synced.has(kind) === true;
  }

  /** Every kind was listed completely at least once since the cluster is followed, and its store was not lost since. */
  get synced(): boolean {
    return FACT_KINDS.every((kind) => this.isSynced(kind));
  }

  get ready(): boolean {
    return this.synced && this.#problem === undefined && this.#store.status.state === 'connected';
  }

  countOf(kind: FactKind): number {
    const following = this.#following;
    if (following === undefined) return 0;
    const origin = factOrigin(this.#options.tables, following.cluster);
    const { ipcache, identities, nodes, services } = this.#options.tables;
    return { nodes, endpoints: ipcache, identities, services }[kind].countOf(origin);
  }

  /** What it waits for, in words; undefined when it is ready. */
  get waitingFor(): string | undefined {
    const { status } = this.#store;
    if (this.#problem !== undefined) return this.#problem.message;
    if (status.state !== 'connected') return status.summary;
    if (this.#following === undefined || (this.#published === undefined && this.#config !== undefined && !this.synced))
      return `waiting for key ${CLUSTER_CONFIG_PREFIX}${this.name}, which the cluster's clustermesh-apiserver writes`;
    const missing = FACT_KINDS.filter((kind) => !this.isSynced(kind));
    if (missing.length === 0) return undefined;
    const { layout } = this.#following;
    const unannounced = missing.filter((kind) => !this.#isAnnounced(kind, layout));
    if (unannounced.length === 0) return `listing ${missing.join(', ')}`;
    return `waiting for ${unannounced.map((kind) => canaryPrefix(this.name) + canaryName(kind, layout)).join(', ')}: the store is not complete yet`;
  }

  /** The store has another data set now. Called before anything of it is listed. */
  dataLost(): void {
    this.#canaries = new Set();
    if (this.#following === undefined || !this.#isGated()) return;
    this.#stopWatches();
    this.#options.onChange();
  }

  /** Goes on with another store; facts stay until the new one has listed them. Not from or to the joined cluster. */
  moveTo(store: Store, kind: ClusterKind = this.#kind): void {
    this.#configWatch.close();
    this.#forgetCanaries();
    this.#stopWatches();
    this.#store = store;
    this.#kind = kind;
    this.#published = undefined;
    this.#problem = undefined;
    this.#configWatch = this.#watchConfig();
    this.#options.onChange();
  }

  /** Tries a refused configuration again: the id may be free by now. */
  retry(): void {
    if (this.#problem !== undefined && this.#published !== undefined) this.#configured(this.#published);
  }

  /** Ends following. `drain` takes its facts out of the tables, and only then another cluster may have its id. */
  close(options: { readonly drain: boolean }): void {
    this.#closed = true;
    this.#configWatch.close();
    this.#unfollow(options.drain);
    if (options.drain) this.#options.ids.release(this.name);
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
        // One that is there and refused is no reason to read on.
        if (!found && this.#config === undefined) this.#unconfigured();
        this.#options.onChange();
      },
    });
  }

  /** Facts stay: a store that is being filled again has no configuration for a while. */
  #withdrawn(): void {
    this.#published = undefined;
    this.#problem = undefined;
    this.#options.onChange();
  }

  #isGated(): boolean {
    return this.#config?.syncedCanaries === true;
  }

  #isAnnounced(kind: FactKind, layout: Layout): boolean {
    return !this.#isGated() || this.#canaries.has(canaryName(kind, layout));
  }

  #configured(value: Buffer): void {
    if (this.#closed) return;
    try {
      const config = decodeClusterConfig(value);
      this.#check(config);
      const { id, maxConnectedClusters: max } = config;
      this.#options.ids.reserve(this.name, id, { max, onEvicted: (error) => this.#evicted(error) });
      this.#problem = undefined;
      this.#config = config;
      this.#follow({ id, max, layout: this.#layout(config) });
    } catch (error) {
      this.#fail(error instanceof MeshError ? error.code : 'MSH-CONFIG', messageOf(error));
    }
    this.#options.onChange();
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
    ids.reserve(this.name, expectedId, { onEvicted: (error) => this.#evicted(error) });
    this.#follow({ id: expectedId, max: 255, layout: 'direct' });
  }

  #layout(config: ClusterConfig): Layout {
    return this.#kind !== 'joined' && config.cached ? 'cached' : 'direct';
  }

  #follow(wanted: { id: number; max: MaxClusters; layout: Layout }): void {
    const now = this.#following;
    const cluster = { name: this.name, id: wanted.id, max: wanted.max, joined: this.#kind === 'joined' };
    const same = now?.cluster.id === wanted.id && now.cluster.max === wanted.max;
    // Data under another id are another cluster's: they go first.
    if (!same) this.#unfollow(true);
    if (!same || now.layout !== wanted.layout) {
      this.#stopWatches();
      if (now !== undefined) this.#clearQuarantine(now.layout);
      this.#following = { cluster, layout: wanted.layout, watches: new Map(), synced: new Set() };
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

  #startAnnounced(): void {
    const following = this.#following;
    if (following === undefined || this.#closed) return;
    for (const kind of FACT_KINDS) {
      if (!this.#isAnnounced(kind, following.layout)) continue;
      const known = following.watches.get(kind);
      if (known?.sink.partial === true) known.watch.close();
      else if (known !== undefined) continue;
      this.#start(kind, following);
    }
  }

  #start(kind: FactKind, following: Following): void {
    const { cluster, layout, watches, synced } = following;
    const prefix = factPrefix(kind, this.name, layout);
    const sink: FactSink = new FactSink(this.#options.tables, cluster, {
      kind,
      prefix,
      // A canary that vanished means that the store is being filled again: what is not there may be still to come.
      mayRemove: () => this.#isAnnounced(kind, layout),
      onListed: () => {
        if (watches.get(kind)?.sink !== sink) return;
        synced.add(kind);
        this.#options.onChange();
      },
    });
    watches.set(kind, { sink, watch: this.#store.watchPrefix(prefix, sink) });
  }

  /** Facts stay; they are listed again when the watches are started anew. */
  #stopWatches(): void {
    const following = this.#following;
    for (const { watch } of following?.watches.values() ?? []) watch.close();
    following?.watches.clear();
    following?.synced.clear();
  }

  #forgetCanaries(): void {
    this.#canaryWatch?.close();
    this.#canaryWatch = undefined;
    this.#canaries = new Set();
  }

  #unfollow(drain: boolean): void {
    this.#forgetCanaries();
    this.#stopWatches();
    const following = this.#following;
    this.#following = undefined;
    if (!drain || following === undefined) return;
    drainFacts(this.#options.tables, following.cluster, (kind) => factPrefix(kind, this.name, following.layout));
  }

  #clearQuarantine(layout: Layout): void {
    const { quarantine } = this.#options.tables;
    for (const kind of FACT_KINDS) quarantine.clearBelow(this.name, factPrefix(kind, this.name, layout));
  }

  /** The local cluster has this id, or these identities. */
  #evicted(error: MeshError): void {
    this.#unfollow(true);
    this.#fail(error.code, error.message);
    this.#options.onChange();
  }

  #fail(code: ErrorCode, message: string): void {
    if (this.#problem?.message === message) return;
    this.#problem = { code, message, since: this.#problem?.since ?? Date.now() };
  }
}
