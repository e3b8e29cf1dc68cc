import { Backoff } from '../core/backoff.ts';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { JobGroup, sleep } from '../core/job.ts';
import { Connection } from './connection.ts';
import { DataSet } from './data-set.ts';
import { type Candidate, connectFirst } from './endpoints.ts';
import type { EtcdOptions } from './etcd-config.ts';
import { decodeRange, decodeShort, encodeDelete, encodePut, encodeRange, type WireKeyValue } from './messages.ts';
import { OwnedKeys } from './owned-keys.ts';
import { HEARTBEAT_KEY } from './paths.ts';
import { pages, Target } from './prefix.ts';
import { PrefixWatches } from './prefix-watches.ts';
import type { KeyValue, OwnedKey, PrefixSink, PrefixWatch, Store, StoreState, StoreStatus } from './store.ts';
import { DEFAULT_TIMING, isForbidden, isTooManyPings, type TransportTiming } from './transport.ts';
import { Troubles } from './troubles.ts';

export interface StoreOptions {
  /** Read again at every connect. */
  readonly etcd: () => Promise<EtcdOptions>;
  /** Endpoints to show before the first connect. */
  readonly endpoints?: readonly string[];
  /** A remote cluster's store: a heartbeat that stopped for two minutes means a dead store (specification 4.4). */
  readonly meshClient?: boolean;
  readonly timing?: Partial<SessionTiming>;
  readonly onEvent?: (event: StoreEvent) => void;
}

/** Milliseconds. */
export interface SessionTiming extends TransportTiming {
  readonly checkMs: number;
  readonly checkAfterFailureMs: number;
  readonly heartbeatLimitMs: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
}

export interface StoreEvent {
  readonly kind: 'connected' | 'lost' | 'failed' | 'data-lost' | 'sink-error';
  readonly message: string;
  readonly error?: unknown;
}

const SESSION_TIMING: SessionTiming = {
  ...DEFAULT_TIMING,
  checkMs: 30_000,
  checkAfterFailureMs: 5_000,
  heartbeatLimitMs: 120_000,
  retryMinMs: 200,
  retryMaxMs: 15_000,
};
const MAX_QUORUM_ERRORS = 3;
const MAX_PING_MS = 60_000;
/** How soon a connection must answer whose network has changed, milliseconds. */
const DOUBT_MS = 2_000;

/** Lives on the connections of a session, as its own watches and keys do. Nothing here may throw. */
export interface Follower {
  connect(connection: Connection): void;
  disconnect(): void;
  /** The store shows other data than before: nothing that was known of it holds. */
  forget(): void;
}

/** A store, and what it takes to do more with its connection than a store does. */
export interface Session extends Store {
  /** One request over the present connection, or the next. @throws MeshError KVS-* */
  request: Connection['request'];
  /** From now on, until the answer is called. A session that is connected calls `connect` at once. */
  follow(follower: Follower): () => void;
}

export function openStore(options: StoreOptions): Store {
  return new EtcdSession(options);
}

export function openSession(options: StoreOptions): Session {
  return new EtcdSession(options);
}

/** One store: connects, checks, fails over, and keeps watches and owned keys going over all of it. */
class EtcdSession implements Session {
  readonly #options: StoreOptions;
  readonly #timing: SessionTiming;
  #pingMs: number;
  readonly #jobs: JobGroup;
  readonly #troubles = new Troubles(() => this.#changed());
  readonly #watches: PrefixWatches;
  readonly #owned: OwnedKeys;
  readonly #dataSet = new DataSet();
  readonly #followers = new Set<Follower>();
  readonly #listeners = new Set<() => void>();
  readonly #waiting = new Set<{ resolve: (connection: Connection) => void; reject: (error: unknown) => void }>();
  #connection: Connection | undefined;
  #endpoints: readonly string[];
  #lastEndpoint: string | undefined;
  #state: StoreState = 'connecting';
  #since = Date.now();
  #quorumErrors = 0;
  #heartbeat: number | undefined;
  /** The last heartbeat, or the connect or list that stands for one, by a clock that nobody sets. */
  #heartbeatFrom = performance.now();
  #doubting = false;
  /** Ends the pause before the next attempt to connect. */
  #hurry = new AbortController();
  #connects = 0;
  #failures = 0;
  #lastFailure: StoreStatus['lastFailure'];
  #lastError: unknown;

  constructor(options: StoreOptions) {
    this.#options = options;
    this.#timing = { ...SESSION_TIMING, ...options.timing };
    this.#pingMs = this.#timing.pingMs;
    this.#endpoints = options.endpoints ?? [];
    this.#jobs = new JobGroup((name, error) => this.#tell('failed', `${name} ended`, error));
    this.#watches = new PrefixWatches(this.#jobs, this.#troubles, (key, error) =>
      this.#tell('sink-error', `value of ${key} was not taken`, error),
    );
    this.#owned = new OwnedKeys(this.#jobs, this.#watches, this.#troubles);
    this.#jobs.start('connect', (signal) => this.#run(signal));
    if (options.meshClient === true) this.#watchHeartbeat();
  }

  get status(): StoreStatus {
    return {
      state: this.#state,
      since: this.#since,
      endpoints: this.#endpoints,
      endpoint: this.#connection?.transport.endpoint,
      clusterId: this.#dataSet.clusterId,
      hasQuorum: this.#state === 'connected' && this.#quorumErrors === 0,
      lastHeartbeat: this.#heartbeat,
      reconnections: Math.max(0, this.#connects - 1),
      failures: this.#failures,
      lastFailure: this.#lastFailure,
      troubles: this.#troubles.list,
      leases: this.#owned.leases,
      summary: this.#summary(),
    };
  }

  request: Session['request'] = async (method, message, decode) =>
    (await this.#connected()).request(method, message, decode);

  follow(follower: Follower): () => void {
    this.#followers.add(follower);
    if (this.#connection !== undefined) follower.connect(this.#connection);
    return () => this.#followers.delete(follower);
  }

  onStatus(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async get(key: string): Promise<KeyValue | undefined> {
    const { kvs } = await (await this.#connected()).range({ key }, Buffer.from(key));
    return kvs[0] && { ...copyOf(kvs[0]), key };
  }

  async list(prefix: string): Promise<KeyValue[]> {
    const all: KeyValue[] = [];
    for await (const page of pages(await this.#connected(), new Target(prefix, false)))
      for (const kv of page.kvs) all.push(copyOf(kv));
    return all;
  }

  async put(key: string, value: string | Buffer): Promise<void> {
    const connection = await this.#connected();
    await connection.request('KV/Put', encodePut(key, Buffer.from(value), 0n), decodeShort);
  }

  async remove(key: string): Promise<boolean> {
    const connection = await this.#connected();
    return (await connection.request('KV/DeleteRange', encodeDelete(key), decodeShort)).count > 0;
  }

  own(key: string, value: string | Buffer, options: { readonly ttlSeconds?: number } = {}): OwnedKey {
    return this.#owned.add(key, Buffer.from(value), options.ttlSeconds ?? 900);
  }

  watchPrefix(prefix: string, sink: PrefixSink): PrefixWatch {
    return this.#watches.addPrefix(prefix, sink);
  }

  watchKey(key: string, sink: PrefixSink): PrefixWatch {
    return this.#watches.addKey(key, sink);
  }

  networkChanged(): void {
    this.#hurry.abort();
    const connection = this.#connection;
    if (connection === undefined || this.#doubting) return;
    this.#doubting = true;
    this.#jobs.start('doubt', (signal) => this.#doubt(connection, signal));
  }

  async close(): Promise<void> {
    this.#setState('closed');
    for (const waiting of this.#waiting) waiting.reject(new MeshError('KVS-LOST', 'the session is closed'));
    this.#waiting.clear();
    this.#watches.close();
    // Keys are left to their leases: a stopped agent is not a machine that left.
    this.#owned.disconnect();
    for (const follower of this.#followers) follower.disconnect();
    this.#connection?.fail(undefined);
    await this.#jobs.stop();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { retryMinMs, retryMaxMs, checkMs } = this.#timing;
    const backoff = new Backoff({ minMs: retryMinMs, maxMs: retryMaxMs });
    while (!signal.aborted) {
      const began = performance.now();
      try {
        await this.#connectOnce(signal);
      } catch (error) {
        if (!signal.aborted) this.#lost(error);
      }
      if (performance.now() - began > checkMs || this.#hurry.signal.aborted) backoff.reset();
      this.#hurry = new AbortController();
      if (!signal.aborted) await sleep(backoff.next(), AbortSignal.any([signal, this.#hurry.signal]));
    }
  }

  async #doubt(connection: Connection, signal: AbortSignal): Promise<void> {
    const over = new AbortController();
    const answer = connection.range({ key: HEARTBEAT_KEY }).then(
      () => true,
      (error: unknown) => isForbidden(error),
    );
    const late = sleep(DOUBT_MS, AbortSignal.any([signal, over.signal])).then(() => signal.aborted);
    const alive = await Promise.race([answer, late]);
    over.abort();
    this.#doubting = false;
    const { endpoint } = connection.transport;
    if (!alive) connection.fail(new MeshError('KVS-LOST', 'no answer after this network changed', { place: endpoint }));
  }

  /** Connects to the first endpoint that answers, and stays until the connection ends. Rejects when it failed. */
  async #connectOnce(signal: AbortSignal): Promise<void> {
    const etcd = await this.#options.etcd();
    this.#endpoints = etcd.endpoints;
    const candidate = await connectFirst({
      etcd,
      signal,
      timing: { ...this.#timing, pingMs: this.#pingMs },
      avoid: this.#lastEndpoint,
      onFailure: (error) => this.#note(error),
    });
    const { transport } = candidate;
    this.#lastEndpoint = transport.endpoint;
    const ended = Promise.withResolvers<unknown>();
    const connection = new Connection({
      transport,
      dataSet: this.#dataSet,
      onOtherData: (reason) => this.#otherData(reason),
      onFailure: ended.resolve,
    });
    const abort = new AbortController();
    try {
      await this.#checkDataSet(connection, candidate);
      if (signal.aborted) return;
      this.#up(connection);
      this.#jobs.start('check', () => this.#checkLoop(connection, AbortSignal.any([signal, abort.signal])));
      const error = await ended.promise;
      if (error !== undefined && !signal.aborted) throw error;
    } finally {
      connection.fail(undefined);
      abort.abort();
      this.#down(connection);
      transport.close();
    }
  }

  /** Before anything is resumed: is it the same data set? */
  async #checkDataSet(connection: Connection, { header }: Candidate): Promise<void> {
    const { revision } = this.#dataSet;
    const reason = header && this.#dataSet.see(header, revision);
    if (reason !== undefined) return this.#otherData(reason);
    const verdict = await this.#dataSet.verify(async (request) =>
      connection.transport.request('KV/Range', encodeRange(request), decodeRange),
    );
    if (verdict === 'other') this.#otherData('etcd has the same cluster ID, but not the history that was seen before');
    else if (verdict === 'unknown') this.#watches.forget();
    if (verdict !== 'same') this.#dataSet.forgetWitness();
  }

  #otherData(reason: string): void {
    this.#watches.forget();
    this.#owned.forget();
    for (const follower of this.#followers) follower.forget();
    this.#tell('data-lost', reason);
  }

  /** Reads through the quorum now and then; after three failures another endpoint is tried. */
  async #checkLoop(connection: Connection, ended: AbortSignal): Promise<void> {
    while (!ended.aborted) {
      const { checkAfterFailureMs, checkMs } = this.#timing;
      await sleep(this.#quorumErrors > 0 ? checkAfterFailureMs : checkMs, ended);
      if (ended.aborted) return;
      try {
        await connection.range({ key: HEARTBEAT_KEY }).catch(ignoreForbidden);
        this.#quorumErrors = 0;
        this.#troubles.clear('quorum');
        this.#checkHeartbeat(connection);
        this.#changed();
      } catch (error) {
        if (ended.aborted) return;
        this.#note(error);
        this.#troubles.set('quorum', error);
        if (++this.#quorumErrors >= MAX_QUORUM_ERRORS) {
          const message = `quorum check failed ${MAX_QUORUM_ERRORS} times in a row`;
          connection.fail(new MeshError('KVS-NO-QUORUM', message, { cause: error }));
        }
      }
    }
  }

  #watchHeartbeat(): void {
    const beat = (): void => {
      this.#heartbeat = Date.now();
      this.#heartbeatFrom = performance.now();
      this.#troubles.clear('heartbeat');
    };
    // The value that a list finds may be old; the end of the list counts, as it does for Cilium, but is no heartbeat.
    let listing = false;
    this.#watches.addPrefix(HEARTBEAT_KEY, {
      listing: () => {
        listing = true;
      },
      put: () => {
        if (!listing) beat();
      },
      remove() {},
      listed: () => {
        listing = false;
        this.#heartbeatFrom = performance.now();
      },
    });
  }

  #checkHeartbeat(connection: Connection): void {
    if (this.#options.meshClient !== true) return;
    const silentMs = performance.now() - this.#heartbeatFrom;
    if (silentMs <= this.#timing.heartbeatLimitMs) return;
    const since = this.#heartbeat ?? Date.now() - silentMs;
    const gap = Math.round((Date.now() - since) / 1000);
    const { endpoint } = connection.transport;
    const error = new MeshError('KVS-HEARTBEAT', `no heartbeat for ${gap} s`, { place: endpoint });
    // It stays a trouble over the reconnects that follow, until there is a heartbeat.
    const summary = new MeshError('KVS-HEARTBEAT', '', { place: endpoint });
    this.#troubles.set('heartbeat', summary, since);
    connection.fail(error);
  }

  #up(connection: Connection): void {
    this.#connection = connection;
    this.#connects++;
    this.#quorumErrors = 0;
    this.#heartbeatFrom = performance.now();
    this.#troubles.clear('connection');
    this.#troubles.clear('quorum');
    this.#setState('connected');
    this.#tell('connected', `connected to ${connection.transport.endpoint}`);
    this.#watches.connect(connection);
    this.#owned.connect(connection);
    for (const follower of this.#followers) follower.connect(connection);
    for (const waiting of this.#waiting) waiting.resolve(connection);
    this.#waiting.clear();
  }

  #down(connection: Connection): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#watches.disconnect();
    this.#owned.disconnect();
    for (const follower of this.#followers) follower.disconnect();
  }

  /** The connection, or the attempt at one, failed. */
  #lost(error: unknown): void {
    // With one endpoint, or none, the attempt has already told the same.
    if (this.#lastError !== error) this.#note(error);
    this.#troubles.set('connection', error);
    // A store that was told to allow fewer pings gets fewer.
    if (isTooManyPings(error)) this.#pingMs = Math.min(MAX_PING_MS, this.#pingMs * 2);
    if (this.#state !== 'closed') this.#setState('failed');
  }

  #note(error: unknown): void {
    const code = error instanceof MeshError ? error.code : 'KVS-LOST';
    this.#failures++;
    this.#lastFailure = { at: Date.now(), code, message: messageOf(error) };
    this.#lastError = error;
    this.#tell('failed', messageOf(error), error);
    this.#changed();
  }

  #connected(): Promise<Connection> {
    if (this.#connection !== undefined) return Promise.resolve(this.#connection);
    if (this.#state === 'closed') return Promise.reject(new MeshError('KVS-LOST', 'the session is closed'));
    return new Promise((resolve, reject) => {
      const done = (): boolean => {
        clearTimeout(timer);
        return this.#waiting.delete(waiting);
      };
      const waiting = {
        resolve: (connection: Connection) => {
          done();
          resolve(connection);
        },
        reject: (error: unknown) => {
          done();
          reject(error);
        },
      };
      this.#waiting.add(waiting);
      const timer = setTimeout(
        () => waiting.reject(this.#lastError ?? new MeshError('KVS-TIMEOUT', 'the store is not connected')),
        this.#timing.requestMs,
      ).unref();
    });
  }

  #setState(state: StoreState): void {
    if (state !== this.#state) this.#since = Date.now();
    this.#state = state;
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) {
      try {
        listener();
      } catch (error) {
        this.#tell('failed', 'a listener of the status failed', error);
      }
    }
  }

  #tell(kind: StoreEvent['kind'], message: string, error?: unknown): void {
    this.#options.onEvent?.({ kind, message, ...(error !== undefined && { error }) });
  }

  #summary(): string {
    const trouble = this.#troubles.list[0];
    const inWords = trouble && `${trouble.message}: ${ERROR_CODES[trouble.code as ErrorCode].remedy}`;
    if (this.#state !== 'connected') return inWords ?? 'Waiting for initial connection to be established';
    const id = this.#dataSet.clusterId ?? '';
    const quorum = this.#quorumErrors === 0;
    const fine = `etcd: 1/${this.#endpoints.length} connected, leases=${this.#owned.leases}, lock leases=0, has-quorum=${quorum}, ID: ${id}`;
    return inWords === undefined ? fine : `${fine}; ${inWords}`;
  }
}

function copyOf(kv: WireKeyValue): KeyValue {
  return { key: kv.key, value: Buffer.from(kv.value), modRevision: kv.modRevision, lease: kv.lease.toString(16) };
}

function ignoreForbidden(error: unknown): void {
  if (!isForbidden(error)) throw error;
}
