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
import { FactSink, type FollowedCluster, factOrigin } from './fact-sinks.ts';
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
  readonly sinks: ReadonlyMap<FactKind, FactSink>;
  readonly watches: Map<FactKind, PrefixWatch>;
  readonly synced: Set<FactKind>;
}

/**
 * Follows the facts of one cluster in one store: reads its configuration, reserves its id, and watches each kind of fact
 * from when its canary says that the store is complete (kvstore specification 4.3, 4.6). Facts stay while the store is away; they
 * go when the cluster is no longer followed. A store that lost its data is not believed before its canaries are back.
 *
 *   configuration ──▶ id reserved ──▶ canary of a kind ──▶ list + watch ──▶ synced
 */
export class Cluster {
  readonly name: string;
  readonly kind: ClusterKind;
  readonly #options: ClusterOptions;
  readonly #watches: PrefixWatch[] = [];
  #config: ClusterConfig | undefined;
  #following: Following | undefined;
  #canaries = new Set<string>();
  #canaryWatch: PrefixWatch | undefined;
  #problem: ClusterProblem | undefined;
  #configListed = false;
  #closed = false;

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.name = options.name;
    this.kind = options.kind;
    this.#watches.push(
      options.store.watchKey(CLUSTER_CONFIG_PREFIX + options.name, {
        listing() {},
        put: (_, value) => this.#configured(value),
        // Facts stay: a store that is being filled again has no configuration for a while.
        remove() {},
        listed: () => {
          this.#configListed = true;
          if (this.#config === undefined) this.#unconfigured();
          options.onChange();
        },
      }),
    );
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
    return this.synced && this.#problem === undefined && this.#options.store.status.state === 'connected';
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
    const { status } = this.#options.store;
    if (this.#problem !== undefined) return this.#problem.message;
    if (status.state !== 'connected') return status.summary;
    if (this.#following === undefined)
      return `waiting for key ${CLUSTER_CONFIG_PREFIX}${this.name}, which the cluster's clustermesh-apiserver writes`;
    const missing = FACT_KINDS.filter((kind) => !this.isSynced(kind));
    if (missing.length === 0) return undefined;
    const { layout } = this.#following;
    const unannounced = missing.filter((kind) => this.#isGated() && !this.#canaries.has(canaryName(kind, layout)));
    if (unannounced.length === 0) return `listing ${missing.join(', ')}`;
    return `waiting for ${unannounced.map((kind) => canaryPrefix(this.name) + canaryName(kind, layout)).join(', ')}: the store is not complete yet`;
  }

  /** The store has another data set now. Called before anything of it is listed. */
  dataLost(): void {
    this.#canaries = new Set();
    const following = this.#following;
    if (following === undefined || !this.#isGated()) return;
    for (const watch of following.watches.values()) watch.close();
    following.watches.clear();
    following.synced.clear();
    this.#options.onChange();
  }

  /** Ends following. `drain` takes its facts out of the tables. */
  close(options: { readonly drain: boolean }): void {
    this.#closed = true;
    for (const watch of this.#watches) watch.close();
    this.#unfollow(options.drain);
    this.#options.ids.release(this.name);
  }

  #isGated(): boolean {
    return this.#config?.syncedCanaries === true;
  }

  #configured(value: Buffer): void {
    if (this.#closed) return;
    try {
      const config = decodeClusterConfig(value);
      const { expectedId } = this.#options;
      if (expectedId !== undefined && expectedId !== config.id) {
        throw new MeshError(
          'MSH-CLUSTER-ID',
          `cluster ${this.name} says that its id is ${config.id}, but we were registered with id ${expectedId}`,
        );
      }
      this.#options.ids.reserve(this.name, config.id);
      this.#problem = undefined;
      this.#config = config;
      this.#follow({ id: config.id, max: config.maxConnectedClusters, layout: this.#layout(config) });
    } catch (error) {
      this.#fail(error instanceof MeshError ? error.code : 'MSH-CONFIG', messageOf(error));
    }
    this.#options.onChange();
  }

  /** Older clusters publish no configuration of their own; what registration told is enough for the one we joined. */
  #unconfigured(): void {
    const { kind, expectedId } = this.#options;
    if (kind !== 'joined' || expectedId === undefined || this.#following !== undefined) return;
    this.#follow({ id: expectedId, max: 255, layout: 'direct' });
  }

  #layout(config: ClusterConfig): Layout {
    return this.kind !== 'joined' && config.cached ? 'cached' : 'direct';
  }

  #follow(wanted: { id: number; max: MaxClusters; layout: Layout }): void {
    const now = this.#following;
    if (
      now !== undefined &&
      now.cluster.id === wanted.id &&
      now.cluster.max === wanted.max &&
      now.layout === wanted.layout
    ) {
      this.#startAnnounced();
      return;
    }
    // Data under another id are another cluster's: they go first.
    this.#unfollow(true);
    const { tables, store } = this.#options;
    const cluster = { name: this.name, id: wanted.id, max: wanted.max, joined: this.kind === 'joined' };
    const synced = new Set<FactKind>();
    const onListed = (kind: FactKind) => () => {
      synced.add(kind);
      this.#options.onChange();
    };
    const sinks = new Map(
      FACT_KINDS.map((kind) => {
        const prefix = factPrefix(kind, this.name, wanted.layout);
        return [kind, new FactSink(tables, cluster, { kind, prefix, onListed: onListed(kind) })] as const;
      }),
    );
    this.#following = { cluster, layout: wanted.layout, sinks, watches: new Map(), synced };
    this.#canaryWatch ??= store.watchPrefix(canaryPrefix(this.name), {
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
    this.#startAnnounced();
  }

  #startAnnounced(): void {
    const following = this.#following;
    if (following === undefined || this.#closed) return;
    for (const kind of FACT_KINDS) {
      const sink = following.sinks.get(kind);
      if (sink === undefined || following.watches.has(kind)) continue;
      if (this.#isGated() && !this.#canaries.has(canaryName(kind, following.layout))) continue;
      following.watches.set(kind, this.#options.store.watchPrefix(factPrefix(kind, this.name, following.layout), sink));
    }
  }

  #unfollow(drain: boolean): void {
    this.#canaryWatch?.close();
    this.#canaryWatch = undefined;
    this.#canaries = new Set();
    const following = this.#following;
    this.#following = undefined;
    for (const watch of following?.watches.values() ?? []) watch.close();
    if (drain) for (const sink of following?.sinks.values() ?? []) sink.drain();
  }

  #fail(code: ErrorCode, message: string): void {
    if (this.#problem?.message === message) return;
    this.#problem = { code, message, since: this.#problem?.since ?? Date.now() };
  }

  /** Whether the store was asked for the cluster's configuration and has none. */
  get unconfigured(): boolean {
    return this.#configListed && this.#config === undefined;
  }

  /** Tries a refused configuration again: the id may be free by now. */
  async retry(): Promise<void> {
    if (this.#problem === undefined || this.#closed) return;
    const found = await this.#options.store.get(CLUSTER_CONFIG_PREFIX + this.name).catch(() => undefined);
    if (found !== undefined) this.#configured(found.value);
  }
}
