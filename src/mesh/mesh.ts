import { Backoff } from '../core/backoff.ts';
import { sleep } from '../core/job.ts';
import { decodeClusterConfig } from '../kvstore/codec/cluster-config.ts';
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

const GONE_MS = 3 * 60_000;

/** The clusters that we follow: the joined one, those that the operator named, and those that the joined store caches. */
export class Mesh {
  readonly ids = new ClusterIds();
  readonly #options: MeshOptions;
  readonly #followed = new Map<string, Followed>();
  readonly #announced = new Set<string>();
  readonly #gone = new Map<string, number>();
  #joined: Followed | undefined;
  #cacheWatch: PrefixWatch | undefined;

  constructor(options: MeshOptions) {
    this.#options = options;
  }

  get joined(): Cluster | undefined {
    return this.#joined?.cluster;
  }

  /** The joined cluster first, the others by name. */
  list(): readonly Followed[] {
    const others = [...this.#followed.values()].filter((each) => each !== this.#joined);
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
    return FACT_KINDS.filter((kind) => this.#joined?.cluster.isSynced(kind) !== true);
  }

  /** Follows the cluster that registered us, and the clusters that its store carries in its cache. */
  join(store: Store, own: { readonly name: string; readonly id: number }): void {
    const joined = this.#joined;
    if (joined?.cluster.name === own.name && this.#joinedId === own.id) return;
    if (joined !== undefined) this.#unfollow(joined.cluster.name);
    // A file of that name is the joined cluster itself (specification 4.1: ignored).
    this.#unfollow(own.name);
    this.#joinedId = own.id;
    this.ids.setOwn(own);
    this.#joined = this.#follow(own.name, 'joined', store, own.id);
    this.#cacheWatch ??= store.watchPrefix(CLUSTER_CONFIG_PREFIX, {
      listing: () => this.#announced.clear(),
      put: (name, value) => this.#cacheAnnounced(name, value, store),
      remove: (name) => this.#cacheGone(name),
      listed: () => {
        for (const [name, each] of this.#followed)
          if (each.cluster.kind === 'cached' && !this.#announced.has(name)) this.#cacheGone(name);
      },
    });
  }

  #joinedId: number | undefined;

  /** Follows a cluster that the operator named. False when it is the joined one. */
  addRemote(name: string, store: Store): boolean {
    if (name === this.#joined?.cluster.name) return false;
    this.#unfollow(name);
    this.#follow(name, 'remote', store);
    return true;
  }

  /** Ends following and takes the cluster's facts away. */
  removeRemote(name: string): void {
    if (this.#followed.get(name)?.cluster.kind === 'remote') this.#unfollow(name);
  }

  /** Moves a cluster to another connection; its facts stay until the new one has listed them. */
  replaceStore(name: string, store: Store): void {
    const followed = this.#followed.get(name);
    if (followed === undefined) return;
    followed.cluster.close({ drain: false });
    this.#followed.delete(name);
    this.#follow(name, followed.cluster.kind, store);
  }

  dataLost(store: Store): void {
    for (const each of this.#followed.values()) if (each.store === store) each.cluster.dataLost();
  }

  /** Tries refused clusters again, and lets cached clusters go that stayed away. */
  async run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: 1000, maxMs: 30_000 });
    while (!signal.aborted) {
      await sleep(Math.min(backoff.next(), 5000), signal);
      const refused = [...this.#followed.values()].filter(({ cluster }) => cluster.problem !== undefined);
      if (refused.length === 0) backoff.reset();
      for (const { cluster } of refused) await cluster.retry();
      for (const [name, since] of this.#gone) {
        if (Date.now() - since < (this.#options.goneMs ?? GONE_MS)) continue;
        this.#gone.delete(name);
        this.#unfollow(name);
      }
    }
  }

  close(): void {
    this.#cacheWatch?.close();
    for (const { cluster } of this.#followed.values()) cluster.close({ drain: false });
    this.#followed.clear();
  }

  #cacheAnnounced(name: string, value: Buffer, store: Store): void {
    this.#announced.add(name);
    this.#gone.delete(name);
    if (name === this.#joined?.cluster.name || this.#followed.has(name) || name.includes('/') || !isCached(value))
      return;
    this.#follow(name, 'cached', store);
  }

  #cacheGone(name: string): void {
    const followed = this.#followed.get(name);
    // Not at once: a store that is filled again after a restart has no configurations for a while.
    if (followed?.cluster.kind === 'cached' && !this.#gone.has(name)) this.#gone.set(name, Date.now());
  }

  #follow(name: string, kind: ClusterKind, store: Store, expectedId?: number): Followed {
    const { tables, onChange } = this.#options;
    const expected = expectedId === undefined ? {} : { expectedId };
    const followed = {
      cluster: new Cluster({ name, kind, store, tables, ids: this.ids, onChange, ...expected }),
      store,
    };
    this.#followed.set(name, followed);
    onChange();
    return followed;
  }

  #unfollow(name: string): void {
    const followed = this.#followed.get(name);
    if (followed === undefined) return;
    followed.cluster.close({ drain: true });
    this.#followed.delete(name);
    this.#options.onChange();
  }
}

function isCached(value: Buffer): boolean {
  try {
    return decodeClusterConfig(value).cached;
  } catch {
    // A configuration that nobody can read makes no cluster; the joined one reports its own.
    return false;
  }
}
