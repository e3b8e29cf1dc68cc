import { formatAddress, formatIpv4, formatPrefix, parseAddress } from '../../src/core/ip.ts';
import { openStore, type StoreEvent } from '../../src/kvstore/session.ts';
import type { PrefixWatch, Store } from '../../src/kvstore/store.ts';
import { Cluster, type ClusterKind } from '../../src/mesh/cluster.ts';
import { ClusterIds } from '../../src/mesh/cluster-ids.ts';
import { Mesh } from '../../src/mesh/mesh.ts';
import type { Quarantined } from '../../src/mesh/quarantine.ts';
import { Tables } from '../../src/mesh/tables.ts';
import { StandInCluster, type StandInOptions } from '../lab/cluster.ts';
import type { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

/** Quick to notice and to come back. */
const TIMING = { retryMinMs: 20, retryMaxMs: 200, checkMs: 500, checkAfterFailureMs: 100 };

/** What a test opened, closed in the reverse order. */
export class Opened {
  readonly #all: (() => unknown)[] = [];

  add<T extends { close(): unknown }>(opened: T): T {
    this.#all.push(() => opened.close());
    return opened;
  }

  atEnd(close: () => unknown): void {
    this.#all.push(close);
  }

  async close(): Promise<void> {
    for (const close of this.#all.toReversed()) await close();
  }
}

export type Place = { readonly endpoints: readonly string[] };

/** Opens a store that tells of lost data as the agent does: at once. */
export function openTestStore(etcd: Place, onDataLost: (store: Store) => void = () => {}): Store {
  const store: Store = openStore({
    etcd: async () => ({ endpoints: [...etcd.endpoints] }),
    timing: TIMING,
    onEvent: (event: StoreEvent) => {
      if (event.kind === 'data-lost') onDataLost(store);
    },
  });
  return store;
}

/** One or several clusters that are followed into tables, and a record of everything that vanished from the tables. */
export class Following {
  readonly refused: Quarantined[] = [];
  readonly tables = new Tables((entry) => this.refused.push(entry));
  readonly ids = new ClusterIds();
  readonly mesh = new Mesh({ tables: this.tables, onChange: () => {}, goneMs: 300 });
  readonly #watches: PrefixWatch[] = [];
  /** Names of facts that were in the tables when they were told as changed, and no longer. */
  readonly vanished: string[] = [];
  readonly #opened: Opened;

  constructor(opened: Opened) {
    this.#opened = opened;
    this.#record();
  }

  follow(etcd: Place, name: string, kind: ClusterKind = 'remote', expectedId?: number): Cluster {
    const { tables, ids } = this;
    const store = this.#opened.add(openTestStore(etcd, () => cluster.dataLost()));
    const { watchPrefix } = store;
    store.watchPrefix = (prefix, sink) => {
      const watch = watchPrefix.call(store, prefix, sink);
      this.#watches.push(watch);
      return watch;
    };
    const expected = expectedId === undefined ? {} : { expectedId };
    const cluster: Cluster = new Cluster({ name, kind, store, tables, ids, onChange: () => {}, ...expected });
    this.#opened.atEnd(() => cluster.close({ drain: false }));
    return cluster;
  }

  /** Complete lists of all prefixes so far. */
  lists(): number {
    return this.#watches.reduce((sum, { lists }) => sum + lists, 0);
  }

  identityOf(address: string): number | undefined {
    const parsed = parseAddress(address);
    return parsed && this.tables.ipcache.lookup(parsed)?.identity;
  }

  /** Everything that is known, as text. */
  dump(): string[] {
    const { ipcache, identities, nodes, services, serviceSlices } = this.tables;
    const slices = [...serviceSlices.services()].flatMap((key) =>
      serviceSlices.of(key).map(({ name }) => `${key} ${name}`),
    );
    return [
      ...[...ipcache.entries()].map(
        (entry) =>
          `${formatPrefix(entry.prefix)} ${entry.identity} ${entry.tunnelEndpoint && formatAddress(entry.tunnelEndpoint)}`,
      ),
      ...[...identities.entries()].map(([id, { labels }]) => `identity ${id} ${labels.map(({ text }) => text)}`),
      ...[...nodes.entries()].map(([name]) => `node ${name}`),
      ...[...services.entries()].map(([name]) => `service ${name}`),
      ...slices.map((text) => `slice ${text}`),
    ].sort();
  }

  /** Looks at each changed key at once, not when somebody drains: an entry that is gone for an instant is seen. */
  #record(): void {
    const { ipcache, identities, nodes, services } = this.tables;
    const watch = <K>(
      feed: { mark(key: K): void; read(wake: () => void): { drain(): Set<K> } },
      name: (key: K) => string,
      has: (key: K) => boolean,
    ): void => {
      const reader = feed.read(() => {
        // The key is added before the reader is woken.
        for (const key of reader.drain()) if (!has(key)) this.vanished.push(name(key));
      });
    };
    watch(ipcache.changed4, formatIpv4, (word) => ipcache.lookup({ family: 4, words: [word] }) !== undefined);
    watch(identities.changed, String, (id) => identities.get(id) !== undefined);
    watch(
      nodes.changed,
      (name) => name,
      (name) => nodes.get(name) !== undefined,
    );
    watch(
      services.changed,
      (name) => name,
      (name) => services.get(name) !== undefined,
    );
  }
}

/** A stand-in cluster with two nodes, pods and a service. */
export async function populated(etcd: Etcd, options: Omit<StandInOptions, 'etcd'>): Promise<StandInCluster> {
  const cluster = new StandInCluster({ ...options, etcd: { endpoints: etcd.endpoints } });
  const { id, name } = options;
  await cluster.node({ name: 'n1', ipv4: `172.16.${id}.1`, range4: `10.${id}.1.0/24` });
  await cluster.node({ name: 'n2', ipv4: `172.16.${id}.2`, range4: `10.${id}.2.0/24` });
  for (const index of [1, 2, 3]) {
    await cluster.pod({
      name: `${name}-${index}`,
      namespace: 'default',
      labels: { app: `app-${index}` },
      addresses: [`10.${id}.1.${index}`],
      host: `172.16.${id}.1`,
    });
  }
  await cluster.service({
    namespace: 'default',
    name: 'web',
    backends: { [`10.${id}.1.1`]: { http: { Protocol: 'TCP', Port: 80 } } },
  });
  await cluster.publish();
  return cluster;
}

export const synced = (cluster: Cluster): Promise<void> => until(`${cluster.name} is synced`, () => cluster.synced);
