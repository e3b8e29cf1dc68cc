import { Backoff } from '../core/backoff.ts';
import { ERROR_CODES, MeshError, messageOf } from '../core/errors.ts';
import { JobGroup, sleep } from '../core/job.ts';
import type { EtcdOptions } from './etcd-config.ts';
import {
  decodeRange,
  decodeShort,
  encodeDelete,
  encodePut,
  encodeRange,
  prefixEnd,
  type RangeRequest,
  type RangeResponse,
  type ResponseHeader,
} from './messages.ts';
import { OwnedKeys } from './owned-keys.ts';
import { HEARTBEAT_KEY } from './paths.ts';
import { PrefixWatches } from './prefix-watches.ts';
import type { KeyValue, OwnedKey, PrefixSink, PrefixWatch, Store, StoreState, StoreStatus } from './store.ts';
import { DEFAULT_TIMING, Transport, type TransportTiming } from './transport.ts';

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

export function openStore(options: StoreOptions): Store {
  return new EtcdSession(options);
}

/** A live connection, and the data set that it showed. */
export interface Connection {
  readonly transport: Transport;
  range(request: RangeRequest): Promise<RangeResponse>;
  /** Checks the answer's data set; throws when it is another one. */
  seen(header: ResponseHeader): void;
  /** Ends this connection; the session makes a new one. */
  fail(error: unknown): void;
}

/** One store: connects, checks, fails over, and keeps watches and owned keys going over all of it. */
class EtcdSession implements Store {
  readonly #options: StoreOptions;
  readonly #timing: SessionTiming;
  readonly #jobs: JobGroup;
  readonly #watches: PrefixWatches;
  readonly #owned: OwnedKeys;
  readonly #listeners = new Set<() => void>();
  readonly #waiting = new Set<{ resolve: (connection: Connection) => void; reject: (error: unknown) => void }>();
  #connection: Connection | undefined;
  #endpoints: readonly string[];
  #lastEndpoint: string | undefined;
  #state: StoreState = 'connecting';
  #since = Date.now();
  #dataSet: { clusterId: string; revision: number } | undefined;
  #quorumErrors = 0;
  #heartbeat: number | undefined;
  #reconnections = -1;
  #failures = 0;
  #lastFailure: StoreStatus['lastFailure'];

  constructor(options: StoreOptions) {
    this.#options = options;
    this.#timing = { ...SESSION_TIMING, ...options.timing };
    this.#endpoints = options.endpoints ?? [];
    this.#jobs = new JobGroup((name, error) => this.#tell('failed', `${name} ended`, error));
    this.#watches = new PrefixWatches(this.#jobs, (key, error) =>
      this.#tell('sink-error', `value of ${key} was not taken`, error),
    );
    this.#owned = new OwnedKeys(this.#jobs);
    this.#jobs.start('connect', (signal) => this.#run(signal));
    if (options.meshClient === true) this.#watchHeartbeat();
  }

  get status(): StoreStatus {
    return {
      state: this.#state,
      since: this.#since,
      endpoints: this.#endpoints,
      endpoint: this.#connection?.transport.endpoint,
      clusterId: this.#dataSet?.clusterId,
      hasQuorum: this.#state === 'connected' && this.#quorumErrors === 0,
      lastHeartbeat: this.#heartbeat,
      reconnections: Math.max(0, this.#reconnections),
      failures: this.#failures,
      lastFailure: this.#lastFailure,
      leases: this.#owned.leases,
      summary: this.#summary(),
    };
  }

  onStatus(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async get(key: string): Promise<KeyValue | undefined> {
    const { kvs } = await (await this.#connected()).range({ key });
    return kvs[0] && toKeyValue(kvs[0], kvs[0].key);
  }

  async list(prefix: string): Promise<KeyValue[]> {
    const { kvs } = await (await this.#connected()).range({ key: prefix, rangeEnd: prefixEnd(prefix) });
    return kvs.map((kv) => toKeyValue(kv, kv.key.slice(prefix.length)));
  }

  async put(key: string, value: string | Buffer): Promise<void> {
    const connection = await this.#connected();
    const { header } = await connection.transport.request(
      'KV/Put',
      encodePut(key, Buffer.from(value), 0n),
      decodeShort,
    );
    connection.seen(header);
  }

  async remove(key: string): Promise<boolean> {
    const connection = await this.#connected();
    const { header, count } = await connection.transport.request('KV/DeleteRange', encodeDelete(key), decodeShort);
    connection.seen(header);
    return count > 0;
  }

  own(key: string, value: string | Buffer, options: { readonly ttlSeconds?: number } = {}): OwnedKey {
    return this.#owned.add(key, Buffer.from(value), options.ttlSeconds ?? 900);
  }

  watchPrefix(prefix: string, sink: PrefixSink): PrefixWatch {
    return this.#watches.add(prefix, sink);
  }

  async close(): Promise<void> {
    this.#setState('closed');
    for (const waiting of this.#waiting) waiting.reject(new MeshError('KVS-LOST', 'the session is closed'));
    this.#waiting.clear();
    const connection = this.#connection;
    await this.#owned.close(connection);
    this.#watches.close();
    connection?.fail(undefined);
    await this.#jobs.stop();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: this.#timing.retryMinMs, maxMs: this.#timing.retryMaxMs });
    while (!signal.aborted) {
      try {
        const connected = Date.now();
        await this.#connectOnce(signal);
        if (Date.now() - connected > this.#timing.checkMs) backoff.reset();
      } catch (error) {
        this.#failed(error);
      }
      if (!signal.aborted) await sleep(backoff.next(), signal);
    }
  }

  /** Connects to the first endpoint that answers, and stays until the connection ends. Rejects when it failed. */
  async #connectOnce(signal: AbortSignal): Promise<void> {
    const etcd = await this.#options.etcd();
    this.#endpoints = etcd.endpoints;
    const transport = await this.#firstThatAnswers(etcd, signal);
    const ended = Promise.withResolvers<unknown>();
    const connection = this.#makeConnection(transport, ended.resolve);
    try {
      // The answer, even a refusal by access control, proves the endpoint; its header names the data set.
      await this.#checkOnce(connection);
      this.#up(connection);
      const checks = this.#checkLoop(connection, ended.promise);
      const error = await ended.promise;
      await checks;
      if (error !== undefined && !signal.aborted) throw error;
    } finally {
      this.#down(connection);
      transport.close();
    }
  }

  async #firstThatAnswers(etcd: EtcdOptions, signal: AbortSignal): Promise<Transport> {
    let lastError: unknown = new MeshError('KVS-CONFIG', 'no endpoint is configured');
    // The endpoint that just failed comes last: it may accept connections and still be broken.
    const order = shuffled(etcd.endpoints).sort(
      (a, b) => Number(a === this.#lastEndpoint) - Number(b === this.#lastEndpoint),
    );
    for (const endpoint of order) {
      if (signal.aborted) break;
      try {
        const transport = await Transport.connect(endpoint, etcd, this.#timing);
        this.#lastEndpoint = endpoint;
        return transport;
      } catch (error) {
        lastError = error;
        if (order.length > 1) this.#failed(error);
      }
    }
    throw lastError;
  }

  #makeConnection(transport: Transport, fail: (error: unknown) => void): Connection {
    const seen = (header: ResponseHeader): void => this.#seen(header, fail);
    return {
      transport,
      seen,
      fail,
      async range(request) {
        const response = await transport.request('KV/Range', encodeRange(request), decodeRange);
        seen(response.header);
        return response;
      },
    };
  }

  /** A changed cluster id or a revision that went back: the store lost its data (specification 4.2, 11.8 no. 30). */
  #seen(header: ResponseHeader, fail: (error: unknown) => void): void {
    const known = this.#dataSet;
    if (known === undefined || known.clusterId === header.clusterId) {
      this.#dataSet = { clusterId: header.clusterId, revision: Math.max(known?.revision ?? 0, header.revision) };
      return;
    }
    const error = new MeshError(
      'KVS-LOST',
      `etcd cluster ID has changed from ${known.clusterId} to ${header.clusterId}`,
    );
    this.#newDataSet(header, error.message);
    fail(error);
    throw error;
  }

  #newDataSet(header: ResponseHeader, message: string): void {
    this.#dataSet = { clusterId: header.clusterId, revision: header.revision };
    this.#watches.forget();
    this.#owned.forget();
    this.#tell('data-lost', message);
  }

  /** A linearizable read: needs a quorum. Revisions only compare between such reads. */
  async #checkOnce(connection: Connection): Promise<void> {
    try {
      const before = this.#dataSet;
      const { header } = await connection.range({ key: HEARTBEAT_KEY });
      if (before !== undefined && before.clusterId === header.clusterId && header.revision < before.revision) {
        this.#newDataSet(header, `etcd revision went back from ${before.revision} to ${header.revision}`);
      }
      this.#quorumErrors = 0;
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'KVS-AUTH' || !/permission denied/.test(error.message))
        throw error;
      this.#quorumErrors = 0;
    }
  }

  async #checkLoop(connection: Connection, ended: Promise<unknown>): Promise<void> {
    let over = false;
    const stop = new AbortController();
    void ended.then(() => {
      over = true;
      stop.abort();
    });
    while (!over) {
      await sleep(this.#quorumErrors > 0 ? this.#timing.checkAfterFailureMs : this.#timing.checkMs, stop.signal);
      if (over) return;
      try {
        await this.#checkOnce(connection);
        this.#checkHeartbeat(connection);
        this.#changed();
      } catch (error) {
        this.#quorumErrors++;
        this.#failed(error, 'connected');
        if (this.#quorumErrors >= MAX_QUORUM_ERRORS) {
          connection.fail(
            new MeshError('KVS-NO-QUORUM', `quorum check failed ${MAX_QUORUM_ERRORS} times in a row`, { cause: error }),
          );
        }
      }
    }
  }

  #watchHeartbeat(): void {
    const beat = (): void => {
      this.#heartbeat = Date.now();
    };
    // The end of the list counts as a beat, as it does for Cilium: a fresh connection gets its two minutes.
    this.#watches.add(HEARTBEAT_KEY, { listing() {}, put: beat, remove() {}, listed: beat });
  }

  #checkHeartbeat(connection: Connection): void {
    if (this.#options.meshClient !== true || this.#heartbeat === undefined) return;
    const gap = Date.now() - this.#heartbeat;
    if (gap <= this.#timing.heartbeatLimitMs) return;
    this.#heartbeat = Date.now();
    connection.fail(
      new MeshError('KVS-HEARTBEAT', `no heartbeat for ${Math.round(gap / 1000)} s`, {
        place: connection.transport.endpoint,
      }),
    );
  }

  #up(connection: Connection): void {
    this.#connection = connection;
    this.#reconnections++;
    if (this.#options.meshClient === true) this.#heartbeat = Date.now();
    this.#setState('connected');
    this.#tell('connected', `connected to ${connection.transport.endpoint}`);
    this.#watches.connect(connection);
    this.#owned.connect(connection);
    for (const waiting of this.#waiting) waiting.resolve(connection);
    this.#waiting.clear();
  }

  #down(connection: Connection): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#watches.disconnect();
    this.#owned.disconnect();
    if (this.#state !== 'closed') this.#setState('connecting');
  }

  #failed(error: unknown, state: StoreState = 'failed'): void {
    const code = error instanceof MeshError ? error.code : 'KVS-LOST';
    this.#failures++;
    this.#lastFailure = { at: Date.now(), code, message: messageOf(error) };
    if (this.#state !== 'closed') this.#setState(state);
    this.#tell('failed', messageOf(error), error);
  }

  #connected(): Promise<Connection> {
    if (this.#connection !== undefined) return Promise.resolve(this.#connection);
    if (this.#state === 'closed') return Promise.reject(new MeshError('KVS-LOST', 'the session is closed'));
    return new Promise((resolve, reject) => {
      const waiting = { resolve, reject };
      this.#waiting.add(waiting);
      setTimeout(() => {
        if (this.#waiting.delete(waiting)) reject(new MeshError('KVS-TIMEOUT', 'the store is not connected'));
      }, this.#timing.requestMs).unref();
    });
  }

  #setState(state: StoreState): void {
    if (state !== this.#state) this.#since = Date.now();
    this.#state = state;
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  #tell(kind: StoreEvent['kind'], message: string, error?: unknown): void {
    this.#options.onEvent?.({ kind, message, ...(error !== undefined && { error }) });
  }

  #summary(): string {
    if (this.#state !== 'connected') {
      const failure = this.#lastFailure;
      if (failure === undefined) return 'Waiting for initial connection to be established';
      return `${failure.message}: ${ERROR_CODES[failure.code as keyof typeof ERROR_CODES].remedy}`;
    }
    const quorum = this.#quorumErrors === 0;
    return `etcd: 1/${this.#endpoints.length} connected, leases=${this.#owned.leases}, lock leases=0, has-quorum=${quorum}, ID: ${this.#dataSet?.clusterId ?? ''}`;
  }
}

function toKeyValue(kv: RangeResponse['kvs'][number], key: string): KeyValue {
  return { key, value: kv.value, modRevision: kv.modRevision, lease: kv.lease.toString(16) };
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
