import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Health } from '../../src/api/health.ts';
import { type ClusterDocument, encodeClusterDocument } from '../../src/hub/clusters/cluster-document.ts';
import { Credentials } from '../../src/hub/clusters/credentials.ts';
import type { BudgetLimits } from '../../src/hub/mesh/budget.ts';
import { KvstoreMesh, type KvstoreMeshOptions, type MeshTiming } from '../../src/hub/mesh/kvstoremesh.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { silentLog } from '../../src/observe/log.ts';
import { contentOf, QUICK } from '../kvstore/mirror.ts';
import { StandInCluster, type StandInOptions } from '../lab/cluster.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { canaryKey, configKey, factKey, KINDS } from '../lab/values.ts';

export interface CacheLabOptions {
  readonly timing?: Partial<MeshTiming>;
  readonly budget?: BudgetLimits;
  readonly max?: 255 | 511;
  readonly pools?: readonly string[];
}

let count = 0;

/** The store of a hub, sources with stand-in clusters in them, and what copies the ones into the other. */
export class CacheLab {
  readonly etcd: Etcd;
  readonly store: WriterStore;
  readonly refused: string[] = [];
  readonly #folder = mkdtempSync(join(tmpdir(), 'mesh-cache-'));
  readonly #options: CacheLabOptions;
  readonly #sources: Etcd[] = [];
  readonly #clusters: StandInCluster[] = [];
  readonly #meshes: { readonly mesh: KvstoreMesh; readonly store: WriterStore }[] = [];

  private constructor(etcd: Etcd, options: CacheLabOptions) {
    this.etcd = etcd;
    this.#options = options;
    this.store = this.#open();
  }

  static async start(options: CacheLabOptions = {}): Promise<CacheLab> {
    return new CacheLab(await Etcd.start(), options);
  }

  async source(): Promise<Etcd> {
    const etcd = await Etcd.start();
    this.#sources.push(etcd);
    return etcd;
  }

  /** A stand-in cluster in an etcd, not yet published. */
  cluster(etcd: Etcd, options: Omit<StandInOptions, 'etcd'>): StandInCluster {
    const cluster = new StandInCluster({ etcd: { endpoints: etcd.endpoints }, heartbeatMs: 500, ...options });
    this.#clusters.push(cluster);
    return cluster;
  }

  /** Says how a cluster is reached; earlier ones come first. */
  async connect(name: string, endpoints: readonly string[]): Promise<void> {
    const now = Date.now() * 10 + count++;
    const document: ClusterDocument = { name, endpoints, connectedAt: now, changedAt: now };
    await this.store.put(`mesh-agent/v1/clusters/${name}`, encodeClusterDocument(document));
  }

  async disconnect(name: string): Promise<void> {
    await this.store.remove(`mesh-agent/v1/clusters/${name}`);
  }

  /** A hub that leads, over a connection of its own. */
  async lead(more: Partial<KvstoreMeshOptions> & { readonly endpoint?: string } = {}): Promise<KvstoreMesh> {
    const { endpoint, ...overrides } = more;
    const store = this.#open(endpoint);
    const { timing, budget, max = 255, pools = [] } = this.#options;
    const mesh = new KvstoreMesh({
      own: { name: 'vms', id: 100 },
      max,
      pools,
      store,
      conditions: [],
      onRefused: (reason) => this.refused.push(reason),
      transact: (transaction) => store.transact(transaction),
      credentials: new Credentials(this.#folder),
      health: new Health(() => {}),
      log: silentLog,
      ...(budget !== undefined && { budget }),
      timing: { careMs: 200, graceMs: 300, retryMs: 100, session: QUICK, ...timing },
      ...overrides,
    });
    this.#meshes.push({ mesh, store });
    await mesh.start();
    return mesh;
  }

  async ready(mesh: KvstoreMesh, ...names: string[]): Promise<void> {
    const isReady = (name: string): boolean =>
      mesh.clusters.find(({ document }) => document.name === name)?.cluster.ready === true;
    await until(`${names.join(', ')} are copied`, () => names.every(isReady), 30_000).catch((error: unknown) => {
      const said = mesh.clusters.map(({ document, cluster }) => ({
        name: document.name,
        store: cluster.store.status,
        problem: cluster.problem,
        missing: cluster.missingCanaries,
        synced: Object.fromEntries([...cluster.replicas].map(({ kind, stored, pending }) => [kind, [stored, pending]])),
      }));
      throw new Error(`${String(error)}\n${JSON.stringify(said)}`);
    });
  }

  /** Everything that the hub's store has of cached clusters, by key; leases and times left out. */
  async cache(): Promise<Map<string, string>> {
    const all = await contentOf(this.etcd, 'cilium/');
    return new Map([...all].map(([key, value]) => [`cilium/${key}`, value]));
  }

  async close(): Promise<void> {
    for (const { mesh, store } of this.#meshes) {
      await mesh.stop();
      await store.close();
    }
    await Promise.all(this.#clusters.map((cluster) => cluster.close()));
    await this.store.close();
    await Promise.all([this.etcd, ...this.#sources].map((etcd) => etcd.close()));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #open(endpoint?: string): WriterStore {
    const endpoints = endpoint === undefined ? this.etcd.endpoints : [endpoint];
    return openWriterStore({ etcd: async () => ({ endpoints }), timing: { retryMinMs: 50, retryMaxMs: 300 } });
  }
}

/** What the cache of a cluster must hold, spelled out from what its own store holds (kvstore specification 5.2). */
export async function expectedCache(source: Etcd, cluster: string): Promise<Map<string, string>> {
  const expected = new Map<string, string>();
  for (const kind of KINDS) {
    const from = factKey(cluster, 'direct', kind, '');
    for (const [name, value] of await contentOf(source, from))
      expected.set(factKey(cluster, 'cached', kind, name), value);
  }
  return expected;
}

/** The keys that announce a cached cluster. */
export function announcementsOf(cluster: string): string[] {
  return [
    configKey(cluster),
    ...KINDS.map((kind) => canaryKey(cluster, 'cached', kind)),
    `cilium/synced/${cluster}/cilium/cache/serviceexports/v1`,
  ].sort();
}

/** A cluster with a little of everything. */
export async function furnish(cluster: StandInCluster, range: string): Promise<void> {
  await cluster.node({
    name: 'node-1',
    ipv4: `192.168.${range}.1`,
    ipv6: `fd00::${range}:1`,
    range4: `10.${range}.0.0/24`,
  });
  await cluster.pod({
    name: 'web-1',
    namespace: 'default',
    labels: { app: 'web' },
    addresses: [`10.${range}.0.5`, `fd00:${range}::5`],
    host: `192.168.${range}.1`,
  });
  await cluster.pod({ name: 'db-1', namespace: 'data', labels: { app: 'db' }, addresses: [`10.${range}.0.6`] });
  await cluster.address({ ip: `10.${range}.128.0/20`, identity: 2, host: `192.168.${range}.1` });
  await cluster.service({
    namespace: 'default',
    name: 'web',
    frontends: { '10.96.0.1': { http: { Protocol: 'TCP', Port: 80 } } },
    backends: { [`10.${range}.0.5`]: { http: { Protocol: 'TCP', Port: 8080 } } },
  });
}
