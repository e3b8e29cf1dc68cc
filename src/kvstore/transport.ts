import * as grpc from '@grpc/grpc-js';
import { MeshError, messageOf } from '../core/errors.ts';
import type { EtcdOptions } from './etcd-config.ts';
import { decodeAuthenticate, encodeAuthenticate } from './messages.ts';
import { findCause } from './probe.ts';
import { type StoreRequest, storeRequests } from './request-channel.ts';
import { readTls, TlsCredentials } from './tls.ts';

/** Deadlines and pings, milliseconds. A dead link is noticed after ping + answer, whatever TCP thinks. */
export interface TransportTiming {
  readonly connectMs: number;
  readonly requestMs: number;
  /**
   * Above 5 s: etcd ends a connection whose pings come faster (`--grpc-keepalive-min-time`). Measured on idle connections,
   * each for five minutes: every 6 s none was ended, every 5 s one, every 4 s all, after 16 s each.
   */
  readonly pingMs: number;
  readonly pingAnswerMs: number;
}

export const DEFAULT_TIMING: TransportTiming = {
  connectMs: 5_000,
  requestMs: 10_000,
  pingMs: 6_000,
  pingAnswerMs: 5_000,
};

/** A hostile or broken server must not fill our memory with one answer; lists ask for smaller pages when they meet it. */
const MAX_MESSAGE_BYTES = 64 << 20;
const WINDOW_BYTES = 1 << 20;

// It would write to the standard error, beside our log, what we report ourselves.
grpc.setLogVerbosity(grpc.logVerbosity.NONE);

export type Stream = grpc.ClientDuplexStream<Buffer, Buffer>;

/**
 * A stream whose messages come one by one: the next after `taken` was called for the one before. gRPC by itself reads
 * sixteen ahead, of two megabytes each from an etcd that catches up, of more from a hostile one.
 */
export interface PacedStream {
  readonly stream: Stream;
  readonly taken: () => void;
}

class PacedCall extends grpc.InterceptingCall {
  #free = true;
  #wanted = false;

  override startRead(): void {
    this.#wanted = true;
    this.#read();
  }

  taken(): void {
    this.#free = true;
    this.#read();
  }

  #read(): void {
    if (!this.#free || !this.#wanted) return;
    this.#free = false;
    this.#wanted = false;
    super.startRead();
  }
}

const pass = (data: Buffer): Buffer => data;

/** One connection to one endpoint. Requests and answers are encoded messages; nothing here knows what they mean. */
export class Transport {
  readonly endpoint: string;
  readonly #client: grpc.Client;
  readonly #timing: TransportTiming;
  readonly #metadata = new grpc.Metadata();
  readonly #calls = new Set<{ cancel(): void }>();
  #closed = false;

  private constructor(endpoint: string, client: grpc.Client, timing: TransportTiming) {
    this.endpoint = endpoint;
    this.#client = client;
    this.#timing = timing;
  }

  /** @throws MeshError KVS-* with the true cause: what gRPC calls UNAVAILABLE may be a name, a route or a certificate */
  static async connect(
    endpoint: string,
    options: EtcdOptions,
    timing: TransportTiming,
    signal: AbortSignal,
  ): Promise<Transport> {
    const url = new URL(endpoint);
    const secure = url.protocol === 'https:';
    const tls = secure ? await readTls(options) : undefined;
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const credentials = tls === undefined ? grpc.credentials.createInsecure() : new TlsCredentials(tls, host);
    const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
    const client = new grpc.Client(`${url.hostname}:${port}`, credentials, {
      'grpc.keepalive_time_ms': timing.pingMs,
      'grpc.keepalive_timeout_ms': timing.pingAnswerMs,
      // etcd takes pings of a connection without streams for abuse; ours always has the watch stream.
      'grpc.keepalive_permit_without_calls': 0,
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      // 64 kB, the default, is one round trip's worth: a list over a long line would take minutes.
      'grpc-node.flow_control_window': WINDOW_BYTES,
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
      // http_proxy and its relatives in the environment are not meant for the store.
      'grpc.enable_http_proxy': 0,
      // A service configuration in DNS would be input from strangers.
      'grpc.service_config_disable_resolution': 1,
    });
    const transport = new Transport(endpoint, client, timing);
    try {
      await transport.#ready(signal);
      if (options.username !== undefined) await transport.#authenticate(options.username, options.password ?? '');
      return transport;
    } catch (cause) {
      transport.close();
      if (cause instanceof MeshError || signal.aborted) throw cause;
      throw await findCause({ host, port, tls, timeoutMs: timing.connectMs, cause, endpoint, signal });
    }
  }

  /** `decode` may throw; that, like every failure, is a MeshError KVS-*. */
  request<Answer>(method: string, message: Buffer, decode: (data: Buffer) => Answer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new MeshError('KVS-LOST', 'the connection is closed', { place: this.endpoint }));
      const options = { deadline: Date.now() + this.#timing.requestMs };
      const start = performance.now();
      const told = (code?: string): void => {
        const seconds = (performance.now() - start) / 1000;
        storeRequests.publish({ method, seconds, ...(code !== undefined && { code }) } satisfies StoreRequest);
      };
      const path = `/etcdserverpb.${method}`;
      const call = this.#client.makeUnaryRequest(
        path,
        pass,
        pass,
        message,
        this.#metadata,
        options,
        (error, answer) => {
          this.#calls.delete(call);
          if (error !== null || answer === undefined) {
            const failure = classify(error, this.endpoint);
            told(failure.code);
            return reject(failure);
          }
          told();
          try {
            resolve(decode(answer));
          } catch (cause) {
            reject(notEtcd(cause, this.endpoint));
          }
        },
      );
      this.#calls.add(call);
    });
  }

  stream(method: string): Stream {
    return this.#stream(method, {});
  }

  watchStream(): PacedStream {
    let call: PacedCall | undefined;
    const paced: grpc.Interceptor = (options, next) => {
      call = new PacedCall(next(options));
      return call;
    };
    return { stream: this.#stream('Watch/Watch', { interceptors: [paced] }), taken: () => call?.taken() };
  }

  #stream(method: string, options: grpc.CallOptions): Stream {
    const metadata = this.#metadata.clone();
    // A member that lost its leader must end the stream instead of keeping it silent for ever.
    if (method.startsWith('Watch')) metadata.set('hasleader', 'true');
    return this.#client.makeBidiStreamRequest(`/etcdserverpb.${method}`, pass, pass, metadata, options);
  }

  /** Requests that still wait are rejected. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const call of this.#calls) call.cancel();
    this.#client.close();
  }

  /** Ready, or the first failure: gRPC itself would try again and again, while another endpoint may be good. */
  #ready(signal: AbortSignal): Promise<void> {
    const channel = this.#client.getChannel();
    const deadline = Date.now() + this.#timing.connectMs;
    const { READY, SHUTDOWN, TRANSIENT_FAILURE } = grpc.connectivityState;
    return new Promise((resolve, reject) => {
      const done = (error?: Error): void => {
        signal.removeEventListener('abort', abort);
        if (error === undefined) resolve();
        else reject(error);
      };
      const abort = (): void => done(new MeshError('KVS-LOST', 'the attempt was given up', { place: this.endpoint }));
      const look = (late?: Error): void => {
        const state = channel.getConnectivityState(true);
        if (state === READY) done();
        else if (state === TRANSIENT_FAILURE || state === SHUTDOWN) done(new Error('the connection failed'));
        else if (late !== undefined) done(late);
        else channel.watchConnectivityState(state, deadline, look);
      };
      signal.addEventListener('abort', abort, { once: true });
      if (signal.aborted) abort();
      else look();
    });
  }

  async #authenticate(name: string, password: string): Promise<void> {
    const token = await this.request('Auth/Authenticate', encodeAuthenticate(name, password), decodeAuthenticate);
    this.#metadata.set('token', token);
  }
}

export function notEtcd(cause: unknown, endpoint: string): MeshError {
  return cause instanceof MeshError
    ? cause
    : new MeshError('KVS-NOT-ETCD', messageOf(cause), { place: endpoint, cause });
}

/** A gRPC error in the words of the table. */
export function classify(error: unknown, endpoint: string): MeshError {
  if (error instanceof MeshError) return error;
  const place = { place: endpoint, cause: error };
  const { code, details } = (error ?? {}) as Partial<grpc.ServiceError>;
  const text = details ?? messageOf(error);
  if (code === grpc.status.PERMISSION_DENIED || code === grpc.status.UNAUTHENTICATED)
    return new MeshError('KVS-AUTH', text, place);
  if (AUTH_ERRORS.test(text)) return new MeshError('KVS-AUTH', text, place);
  if (/no leader|leader changed|request timed out/i.test(text)) return new MeshError('KVS-NO-QUORUM', text, place);
  if (/too many requests/.test(text)) return new MeshError('KVS-BUSY', text, place);
  if (code === grpc.status.DEADLINE_EXCEEDED) return new MeshError('KVS-TIMEOUT', text, place);
  if (code === grpc.status.UNIMPLEMENTED || /HTTP status code|invalid content-type|protocol error/i.test(text))
    return new MeshError('KVS-NOT-ETCD', text, place);
  return new MeshError('KVS-LOST', text, place);
}

const AUTH_ERRORS =
  /authentication failed|authentication is not enabled|user name is empty|invalid auth token|permission denied|revision of auth store is old/i;

/** True when a role forbids it: the connection and its user are good. Everything else of KVS-AUTH needs a new login. */
export function isForbidden(error: unknown): boolean {
  return error instanceof MeshError && error.code === 'KVS-AUTH' && /permission denied/.test(error.message);
}

/** True when users or roles were changed while a request was under way: it was not done. */
export function isOvertaken(error: unknown): boolean {
  return error instanceof MeshError && error.code === 'KVS-AUTH' && /revision of auth store is old/.test(error.message);
}

/** True when the store says that the revision asked for is compacted away. */
export function isCompacted(error: unknown): boolean {
  return /required revision has been compacted/.test(messageOf(error));
}

export function isTooLarge(error: unknown): boolean {
  return /message larger than max/.test(messageOf(error));
}

/** GOAWAY with ENHANCE_YOUR_CALM, in the words of gRPC. */
export function isTooManyPings(error: unknown): boolean {
  return /Bandwidth exhausted/.test(messageOf(error));
}
