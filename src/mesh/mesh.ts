import { Backoff } from '../core/backoff.ts';
import { sleep } from '../core/job.ts';
import { saysCached } from '../kvstore/codec/cluster-config.ts';
import { CLUSTER_CONFIG_PREFIX, FACT_KINDS, type FactKind } from '../kvstore/paths.ts';
import type { PrefixWatch, Store } from '../kvstore/store.ts';
import { Cluster, type ClusterKind } from './cluster.ts';
import { ClusterIds } from './cluster-ids.ts';
import type { Tables } from './tables.ts';

export interface MeshOptions {
  readonly tables: Tables;
  readonly onChange: () => void;
  /** How long a cached cluster that is no longer announced is kept, milliseconds; KVStoreMesh's own grace by default. */
  readonly goneMs?: number;
}

interface Followed {
  readonly cluster: Cluster;
  readonly store: Store;
}

interface Joined extends Followed {
  readonly id: number;
}

const GONE_MS = 3 * 60_000;
const MAX_RETRY_MS = 5000;
/** There are no more ids: what a store announces beyond that cannot be followed anyway. */
const MAX_CLUSTERS = 511;

/** The clusters that we follow: the joined one, those that the operator named, and those that the joined store caches. */
export class Mesh {
  readonly ids = new ClusterIds();
  readonly #options: MeshOptions;
  readonly #followed = new Map<string, Followed>();
  /** Clusters that the joined store carries in its cache. */
  readonly #announced = new Set<string>();
  /** Cached clusters that are no longer announced, each with the time since when, monotonic milliseconds. */
  readonly #gone = new Map<string, number>();
  #joined: Joined | undefined;
  #cacheWatch: PrefixWatch | undefined;

  constructor(options: MeshOptions) {
    this.#options = options;
  }

  get joined(): Cluster | undefined {
    return this.#joined?.cluster;
  }

  /** The joined cluster first, the others by name. */
  list(): readonly Followed[] {
    const own = this.#joined?.cluster;
    const others = [...this.#followed.values()].filter(({ cluster }) => cluster !== own);
    others.sort((a, b) => (a.cluster.name < b.cluster.name ? -1 : 1));
    return this.#joined === undefined ? others : [this.#joined, ...others];
  }

  isSynced(kind: FactKind): boolean {
    return this.list().every(({ cluster }) => cluster.isSynced(kind));
  }

  /** The joined store has not told yet which clusters it caches. */
  get discovering(): boolean {
    const watch = this.#cacheWatch;
    // An ordinary cluster may not let us look, and caches nothing for us.
    return watch !== undefined && !watch.synced && !/permission denied/.test(watch.lastError ?? '');
  }

  /** Kinds that the joined cluster has not listed yet. */
  missing(): readonly FactKind[] {
    const joined = this.#joined?.cluster;
    return (joined?.kinds ?? FACT_KINDS).filter((kind) => joined?.isSynced(kind) !== true);
  }

  /** Follows the cluster that registered us, and the clusters that its store carries in its cache. */
  join(store: Store, own: { readonly name: string; readonly id: number }): void {
    const joined = this.#joined;
    if (joined?.cluster.name === own.name && joined.id === own.id && joined.store === store) return;
    if (joined !== undefined) this.#unfollow(joined.cluster.name);
    // A file of that name is the joined cluster itself (specification 4.1: ignored).
    this.#unfollow(own.name);
    this.ids.setOwn(own);
    this.#joined = { ...this.#follow(own.name, 'joined', store, own.id), id: own.id };
    if (joined?.store !== store) this.#watchCache(store);
  }

  /** Follows a cluster that the operator named. False when it is the joined one. */
  addRemote(name: string, store: Store): boolean {
    if (name === this.#joined?.cluster.name) return false;
    const followed = this.#followed.get(name);
    this.#gone.delete(name);
    if (followed === undefined) this.#follow(name, 'remote', store);
    else this.#move(name, followed, store, 'remote');
    return true;
  }

  /** Ends following and takes the cluster's facts away, unless the joined store has it in its cache. */
  removeRemote(name: string): void {
    const followed = this.#followed.get(name);
    if (followed?.cluster.kind !== 'remote') return;
    if (this.#joined !== undefined && this.#announced.has(name))
      this.#move(name, followed, this.#joined.store, 'cached');
    else this.#unfollow(name);
  }

  /** Moves a cluster to another connection; its facts stay until the new one has listed them. */
  replaceStore(name: string, store: Store): void {
    const followed = this.#followed.get(name);
    if (followed !== undefined && followed.cluster !== this.joined)
      this.#move(name, followed, store, followed.cluster.kind);
  }

  dataLost(store: Store): void {
    for (const each of this.#followed.values()) if (each.store === store) each.cluster.dataLost();
  }

  /** Tries refused clusters again, and lets cached clusters go that stayed away. */
  async run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: 1000, maxMs: MAX_RETRY_MS });
    while (!signal.aborted) {
      await sleep(backoff.next(), signal);
      if (signal.aborted) return;
      if (!this.#retry()) backoff.reset();
      this.#expire();
    }
  }

  close(): void {
    this.#cacheWatch?.close();
    for (const { cluster } of this.#followed.values()) cluster.close({ drain: false });
    this.#followed.clear();
    this.#joined = undefined;
  }

  #watchCache(store: Store): void {
    this.#cacheWatch?.close();
    this.#announced.clear();
    this.#cacheWatch = store.watchPrefix(CLUSTER_CONFIG_PREFIX, {
      listing: () => this.#announced.clear(),
      put: (name, value) => this.#cacheAnnounced(name, value, store),
      remove: (name) => this.#cacheGone(name),
      listed: () => {
        for (const [name, { cluster }] of this.#followed)
          if (cluster.kind === 'cached' && !this.#announced.has(name)) this.#cacheGone(name);
      },
    });
  }

  #cacheAnnounced(name: string, value: Buffer, store: Store): void {
    if (name === this.#joined?.cluster.name || name === '' || name.includes('/')) return;
    if (!saysCached(value)) {
      this.#cacheGone(name);
      return;
    }
    this.#announced.add(name);
    this.#gone.delete(name);
    if (!this.#followed.has(name) && this.#followed.size < MAX_CLUSTERS) this.#follow(name, 'cached', store);
  }

  #cacheGone(name: string): void {
    this.#announced.delete(name);
    // Not at once: a store that is filled again after a restart has no configurations for a while.
    if (this.#followed.get(name)?.cluster.kind === 'cached' && !this.#gone.has(name))
      this.#gone.set(name, performance.now());
  }

  /** The time in which the joined store is away or incomplete does not count: it cannot announce anything then. */
  #expire(): void {
    const now = performance.now();
    const joined = this.#joined;
    const believable = joined?.store.status.state === 'connected' && joined.cluster.synced;
    for (const [name, since] of this.#gone) {
      if (!believable) this.#gone.set(name, now);
      else if (now - since >= (this.#options.goneMs ?? GONE_MS)) this.#unfollow(name);
    }
  }

  /** Whether any cluster was refused. */
  #retry(): boolean {
    const refused = [...this.#followed.values()].filter(({ cluster }) => cluster.problem !== undefined);
    for (const { cluster } of refused) cluster.retry();
    return refused.length > 0;
  }

  #follow(name: string, kind: ClusterKind, store: Store, expectedId?: number): Followed {
    const { tables, onChange } = this.#options;
    const expected = expectedId === undefined ? {} : { expectedId };
    const cluster = new Cluster({ name, kind, store, tables, ids: this.ids, onChange, ...expected });
    const followed = { cluster, store };
    this.#followed.set(name, followed);
    onChange();
    return followed;
  }

  #move(name: string, { cluster }: Followed, store: Store, kind: ClusterKind): void {
    this.#followed.set(name, { cluster, store });
    cluster.moveTo(store, kind);
  }

  #unfollow(name: string): void {
    const followed = this.#followed.get(name);
    this.#gone.delete(name);
    if (followed === undefined) return;
    followed.cluster.close({ drain: true });
    this.#followed.delete(name);
    if (this.#joined?.cluster === followed.cluster) this.#joined = undefined;
    // Its id is free now.
    this.#retry();
    this.#options.onChange();
  }
}
