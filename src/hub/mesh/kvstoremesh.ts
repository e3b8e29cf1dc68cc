import type { Health } from '../../api/health.ts';
import { messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import { LeasedKeySet, type LeasedKeys } from '../../kvstore/leased-keys.ts';
import { CLUSTER_CONFIG_PREFIX, LOST_PREFIX } from '../../kvstore/paths.ts';
import { openStore, type SessionTiming, type StoreEvent } from '../../kvstore/session.ts';
import type { PrefixWatch, Store } from '../../kvstore/store.ts';
import type { Condition, Transaction, TransactionResult } from '../../kvstore/transaction.ts';
import type { WriterStore } from '../../kvstore/writer-store.ts';
import { ClusterIds } from '../../mesh/cluster-ids.ts';
import type { Log } from '../../observe/log.ts';
import {
  CLUSTERS_PREFIX,
  type ClusterDocument,
  decodeClusterDocument,
  encodeClusterDocument,
} from '../clusters/cluster-document.ts';
import type { Credentials } from '../clusters/credentials.ts';
import { type BudgetLimits, DEFAULT_BUDGET } from './budget.ts';
import { readCachedClusters } from './cached-clusters.ts';
import { ClusterRanges } from './cluster-ranges.ts';
import { cachePrefix } from './kinds.ts';
import { LostClusters } from './lost-clusters.ts';
import { OwnRanges } from './own-ranges.ts';
import { OwnedAddresses } from './owned-addresses.ts';
import type { RangeOverlap } from './range-overlaps.ts';
import { Readiness } from './readiness.ts';
import { RemoteCluster } from './remote-cluster.ts';
import { REMOVAL_TIMING, removeCache } from './removal.ts';
import type { Replica } from './replica.ts';
import { RequestLimiter } from './request-limiter.ts';

export interface KvstoreMeshOptions {
  readonly own: { readonly name: string; readonly id: number };
  readonly max: 255 | 511;
  readonly pools: readonly string[];
  readonly store: WriterStore;
  /** What holds as long as this hub leads. */
  readonly conditions: readonly Condition[];
  /** A write was refused: this hub does not lead any more. */
  readonly onRefused: (reason: string) => void;
  /** A transaction under the same conditions. */
  readonly transact: (transaction: Transaction) => Promise<TransactionResult>;
  readonly credentials: Credentials;
  readonly health: Health;
  readonly log: Log;
  readonly budget?: BudgetLimits;
  readonly timing?: Partial<MeshTiming>;
}

/** Milliseconds. */
export interface MeshTiming {
  readonly graceMs: number;
  readonly retryMs: number;
  /** How often troubles are looked for and refused things are tried again. */
  readonly careMs: number;
  readonly perClusterReadyMs: number;
  readonly globalReadyMs: number;
  /** Of the sessions to remote clusters. */
  readonly session: Partial<SessionTiming>;
  readonly leaseSeconds: number;
}

const TIMING: MeshTiming = {
  ...REMOVAL_TIMING,
  careMs: 5000,
  perClusterReadyMs: 15_000,
  globalReadyMs: 600_000,
  session: {},
  leaseSeconds: 900,
};
/** Kvstore specification 5.3. A request here is a transaction. */
const RATE = 100;
const BOOTSTRAP_RATE = 10_000;
const IN_FLIGHT = 10;
/** Writers wait for each write, so the limiter is the bound; this one is only not to be in the way. */
const UNLIMITED = 1e9;

export interface ConnectedCluster {
  readonly document: ClusterDocument;
  readonly cluster: RemoteCluster;
  readonly since: number;
  readyAt: number | undefined;
}

/**
 * Copies the state of every connected cluster into our store, where machines read it: one connection to each cluster, and
 * for a machine one connection to us, however many clusters there are (kvstore specification 5).
 *
 *   clusters/<name> ──▶ session ──▶ RemoteCluster ──▶ Replica per kind ──▶ LeasedKeys ──▶ RequestLimiter ──▶ our store
 */
export class KvstoreMesh {
  readonly readiness: Readiness;
  readonly #options: KvstoreMeshOptions;
  readonly #timing: MeshTiming;
  readonly #jobs: JobGroup;
  readonly #ids = new ClusterIds();
  readonly #limiter: RequestLimiter;
  /** What was there before is read cluster by cluster: all at once would be held twice. */
  readonly #reads = new RequestLimiter({ inFlight: 1, rate: () => UNLIMITED });
  readonly #addresses: OwnedAddresses;
  readonly #own: OwnRanges;
  readonly #ranges = new ClusterRanges();
  readonly #announcements: LeasedKeys;
  readonly #lost: LostClusters;
  readonly #connected = new Map<string, ConnectedCluster>();
  readonly #documents = new Map<string, ClusterDocument>();
  readonly #removals = new Map<string, AbortController>();
  /** One at a time for each name. */
  readonly #turns = new Map<string, Promise<void>>();
  /** Clusters whose refused addresses may be free now. */
  #addressesChanged = false;
  #watch: PrefixWatch | undefined;
  #closed = false;

  constructor(options: KvstoreMeshOptions) {
    const { own, pools, store, log } = options;
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
    this.readiness = new Readiness(this.#timing);
    this.#jobs = new JobGroup((name, error) => log.error('background work ended', { name, error }));
    this.#limiter = new RequestLimiter({
      inFlight: IN_FLIGHT,
      rate: () => (this.readiness.bootstrapping ? BOOTSTRAP_RATE : RATE),
    });
    this.#own = new OwnRanges({
      store,
      cluster: own.name,
      pools,
      onGained: (text) => this.#gained(text),
      onLost: () => {
        this.#addressesChanged = true;
      },
    });
    this.#addresses = new OwnedAddresses({
      own: this.#own.index,
      compare: (a, b) => this.#compare(a, b),
      onChange: (address, owner) => this.#ownerChanged(address, owner),
    });
    this.#ids.setOwn(own);
    this.#announcements = this.#leasedKeys([CLUSTER_CONFIG_PREFIX, 'cilium/synced/']);
    this.#lost = new LostClusters(this.#leasedKeys([LOST_PREFIX]));
  }

  /** Connected clusters by name. */
  get clusters(): readonly ConnectedCluster[] {
    return [...this.#connected.values()].sort((a, b) => (a.document.name < b.document.name ? -1 : 1));
  }

  /** Keys that are copied, of all clusters. */
  get size(): number {
    return this.#sum(({ size }) => size);
  }

  /** Writes that the store has not confirmed yet. */
  get pending(): number {
    return this.#sum(({ pending }) => pending);
  }

  get overlaps(): readonly RangeOverlap[] {
    return this.#ranges.overlaps(this.#own.ranges);
  }

  /** Caches that are being removed. */
  get removing(): readonly string[] {
    return [...this.#removals.keys()];
  }

  /** Resolves when it is known what is connected; copying goes on from there. @throws MeshError KVS-* */
  async start(): Promise<void> {
    const { store, credentials } = this.#options;
    await this.#own.ready();
    const cached = await readCachedClusters(store);
    const { entries } = await store.readPrefix(CLUSTERS_PREFIX);
    const names = new Set(entries.map(({ key }) => key));
    // Who had an id before keeps it, whoever answers first now.
    for (const { name, config } of cached) {
      if (config === undefined || !names.has(name)) continue;
      this.#try(`the id of ${name}`, () => this.#ids.reserve(name, config.id, { max: config.maxConnectedClusters }));
    }
    await credentials.keepOnly(names);
    const listed = Promise.withResolvers<void>();
    this.#watchDocuments(listed.resolve);
    await listed.promise;
    await Promise.all(this.#turns.values());
    for (const { name } of cached) if (!this.#documents.has(name)) this.#remove(name);
    this.#tellLost();
    this.#jobs.start('care', (signal) => this.#care(signal));
  }

  async stop(): Promise<void> {
    this.#closed = true;
    this.#watch?.close();
    this.#own.close();
    for (const removal of this.#removals.values()) removal.abort();
    await this.#jobs.stop();
    await Promise.all(this.#turns.values());
    await Promise.all([...this.#connected.values()].map((each) => this.#disconnect(each)));
    await this.#announcements.close({ keep: true });
    await this.#lost.close();
    for (const { document } of this.#connected.values()) this.#options.health.clear(`cluster/${document.name}`);
  }

  #watchDocuments(onListed: () => void): void {
    let present = new Set<string>();
    this.#watch = this.#options.store.watchPrefix(CLUSTERS_PREFIX, {
      listing: () => {
        present = new Set();
      },
      put: (name, value) => {
        present.add(name);
        this.#try(`the document of ${name}`, () => {
          const document = decodeClusterDocument(name, value);
          const before = this.#documents.get(name);
          // The same again, as after every list.
          if (before !== undefined && encodeClusterDocument(before) === encodeClusterDocument(document)) return;
          this.#documents.set(name, document);
          this.#turn(name);
        });
      },
      remove: (name) => this.#gone(name),
      listed: () => {
        for (const name of [...this.#documents.keys()]) if (!present.has(name)) this.#gone(name);
        onListed();
      },
    });
  }

  #gone(name: string): void {
    this.#documents.delete(name);
    this.#turn(name);
  }

  /** Brings one cluster to what its document says. */
  #turn(name: string): void {
    const before = this.#turns.get(name) ?? Promise.resolve();
    const work = async (): Promise<void> => {
      await before;
      try {
        await this.#apply(name);
      } catch (error) {
        this.#options.log.error('a cluster could not be connected', { cluster: name, error });
      }
    };
    const turn: Promise<void> = work().finally(() => {
      if (this.#turns.get(name) === turn) this.#turns.delete(name);
    });
    this.#turns.set(name, turn);
  }

  async #apply(name: string): Promise<void> {
    if (this.#closed) return;
    const { credentials } = this.#options;
    const document = this.#documents.get(name);
    const connected = this.#connected.get(name);
    if (document === undefined) {
      if (connected === undefined) return;
      await this.#disconnect(connected);
      this.#connected.delete(name);
      this.#tellLost();
      this.readiness.forget(name);
      this.#addresses.drop(name);
      this.#ranges.drop(name);
      this.#ids.release(name);
      this.#options.health.clear(`cluster/${name}`);
      await credentials.remove(name);
      this.#remove(name);
      this.#retry();
      return;
    }
    if (connected?.document === document) return;
    this.#removals.get(name)?.abort();
    await credentials.write(name, document);
    const store = this.#open(document);
    if (connected === undefined) {
      this.readiness.add(name);
      const since = Date.now();
      this.#connected.set(name, { document, cluster: this.#follow(name, store), since, readyAt: undefined });
      return;
    }
    const old = connected.cluster.store;
    this.#connected.set(name, { ...connected, document });
    connected.cluster.moveTo(store);
    await old.close();
  }

  async #disconnect({ cluster }: ConnectedCluster): Promise<void> {
    await cluster.close();
    await cluster.store.close();
  }

  #open(document: ClusterDocument): Store {
    const { name } = document;
    const log = this.#options.log.child(name);
    const store = openStore({
      etcd: () => this.#options.credentials.write(name, document),
      endpoints: document.endpoints,
      meshClient: true,
      timing: this.#timing.session,
      onEvent: ({ kind, message, error }: StoreEvent) => {
        if (kind === 'data-lost') this.#connected.get(name)?.cluster.dataLost();
        if (kind === 'connected') log.info(message);
        else if (kind === 'failed') log.debug(message, { error });
        else log.warn(message, { error });
      },
    });
    store.onStatus(() => this.#tellLost());
    return store;
  }

  #tellLost(): void {
    if (this.#closed) return;
    const states = [...this.#connected].map(([name, { cluster }]) => [name, cluster.store.status.state] as const);
    this.#lost.look(new Map(states));
  }

  #follow(name: string, store: Store): RemoteCluster {
    const { max, budget = DEFAULT_BUDGET } = this.#options;
    return new RemoteCluster({
      name,
      store,
      max,
      ids: this.#ids,
      addresses: this.#addresses,
      budget,
      leasedKeys: (kind) => this.#leasedKeys([cachePrefix(kind, name)]),
      announcements: this.#announcements,
      onRanges: (node, ranges) => this.#ranges.put(name, node, ranges),
      onChange: () => this.#look(name),
    });
  }

  /** Each waits for its writes one by one, so that the limiter lets all take turns. */
  #leasedKeys(prefixes: readonly string[]): LeasedKeys {
    const { store, conditions, onRefused } = this.#options;
    const { session } = store;
    return new LeasedKeySet(
      {
        session,
        transact: (transaction) => this.#limiter.run(() => store.transact(transaction)),
        readPrefix: (prefix) => this.#reads.run(() => store.readPrefix(prefix)),
      },
      {
        prefixes,
        ttlSeconds: this.#timing.leaseSeconds,
        rate: UNLIMITED,
        guard: () => conditions,
        onRefused: () => onRefused('a write of the cache was refused'),
      },
    );
  }

  #remove(name: string): void {
    if (this.#removals.has(name) || name === this.#options.own.name) return;
    const abort = new AbortController();
    this.#removals.set(name, abort);
    const { transact, log } = this.#options;
    this.#jobs.start(`removal of ${name}`, async (signal) => {
      try {
        const gone = await removeCache({
          cluster: name,
          announcements: this.#announcements,
          transact,
          timing: this.#timing,
          signal: AbortSignal.any([signal, abort.signal]),
          onProblem: (message) => log.warn(message),
        });
        if (gone) log.info('the cache of a cluster is removed', { cluster: name });
      } finally {
        if (this.#removals.get(name) === abort) this.#removals.delete(name);
      }
    });
  }

  #compare(a: string, b: string): number {
    const at = (name: string): number => this.#documents.get(name)?.connectedAt ?? Number.MAX_SAFE_INTEGER;
    return at(a) - at(b) || (a < b ? -1 : a > b ? 1 : 0);
  }

  /** What clusters behind the owner said of this address is not cached any more. */
  #ownerChanged(address: string, owner: string | undefined): void {
    this.#addressesChanged = true;
    if (owner === undefined) return;
    for (const [name, { cluster }] of this.#connected) {
      if (name === owner || this.#compare(owner, name) > 0) continue;
      for (const key of [address, `${address}/${address.includes(':') ? 128 : 32}`])
        cluster.replica('ip').revoke(key, 'address');
    }
    for (const { cluster, node } of this.#addresses.rivals(address))
      this.#connected.get(cluster)?.cluster.replica('nodes').revoke(node, 'address');
  }

  /** An address or range is the hub's now. */
  #gained(text: string): void {
    this.#ranges.touch();
    for (const { cluster } of this.#connected.values()) {
      if (text.includes('/')) cluster.readAgain('ip');
      else cluster.replica('ip').revoke(text, 'address');
      cluster.readAgain('nodes');
    }
  }

  #look(name: string): void {
    const connected = this.#connected.get(name);
    if (connected === undefined) return;
    if (connected.cluster.synced) {
      connected.readyAt ??= Date.now();
      this.readiness.synced(name);
    }
  }

  async #care(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(this.#timing.careMs, signal);
      if (signal.aborted) return;
      this.#retry();
      const readAddresses = this.#addressesChanged;
      this.#addressesChanged = false;
      for (const { cluster } of this.#connected.values()) {
        for (const { kind } of [...cluster.replicas]) {
          const replica = cluster.replica(kind);
          const free = readAddresses && replica.lacks('address');
          if (free || (replica.lacks('count') && cluster.budget.hasRoom)) cluster.readAgain(kind);
        }
      }
      for (const [name, { cluster }] of this.#connected) {
        const known = cluster.store.status.state === 'connected' && cluster.configured && cluster.problem === undefined;
        this.readiness.check(name, known);
      }
    }
  }

  /** Refused configurations: an id may be free now. */
  #retry(): void {
    for (const { cluster } of this.#connected.values()) cluster.retry();
  }

  #sum(of: (replica: Replica) => number): number {
    let sum = 0;
    for (const { cluster } of this.#connected.values()) for (const replica of cluster.replicas) sum += of(replica);
    return sum;
  }

  #try(what: string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#options.log.error(`${what} cannot be used: ${messageOf(error)}`);
    }
  }
}
