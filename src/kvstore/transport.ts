import { readFile } from 'node:fs/promises';
import * as grpc from '@grpc/grpc-js';
import { MeshError, messageOf } from '../core/errors.ts';
import type { EtcdOptions } from './etcd-config.ts';
import { decodeAuthenticate, encodeAuthenticate } from './messages.ts';
import { findCause } from './probe.ts';

/** Deadlines and pings, milliseconds. A dead link is noticed after ping + answer, whatever TCP thinks. */
export interface TransportTiming {
  readonly connectMs: number;
  readonly requestMs: number;
  readonly pingMs: number;
  readonly pingAnswerMs: number;
}

export const DEFAULT_TIMING: TransportTiming = {
  connectMs: 5_000,
  requestMs: 10_000,
  pingMs: 5_000,
  pingAnswerMs: 5_000,
};

export type Stream = grpc.ClientDuplexStream<Buffer, Buffer>;

const pass = (data: Buffer): Buffer => data;

/** One connection to one endpoint. Requests and answers are encoded messages; nothing here knows what they mean. */
export class Transport {
  readonly endpoint: string;
  readonly #client: grpc.Client;
  readonly #timing: TransportTiming;
  #metadata = new grpc.Metadata();

  private constructor(endpoint: string, client: grpc.Client, timing: TransportTiming) {
    this.endpoint = endpoint;
    this.#client = client;
    this.#timing = timing;
  }

  /** @throws MeshError KVS-* with the true cause: what gRPC calls UNAVAILABLE may be a name, a route or a certificate */
  static async connect(endpoint: string, options: EtcdOptions, timing: TransportTiming): Promise<Transport> {
    const url = new URL(endpoint);
    const secure = url.protocol === 'https:';
    const tls = secure ? await readTls(options) : undefined;
    const credentials =
      tls === undefined ? grpc.credentials.createInsecure() : grpc.credentials.createSsl(tls.ca, tls.key, tls.cert);
    const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
    const client = new grpc.Client(`${url.hostname}:${port}`, credentials, {
      'grpc.keepalive_time_ms': timing.pingMs,
      'grpc.keepalive_timeout_ms': timing.pingAnswerMs,
      'grpc.keepalive_permit_without_calls': 1,
      'grpc.max_receive_message_length': -1,
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
    });
    const transport = new Transport(endpoint, client, timing);
    try {
      await transport.#ready();
      if (options.username !== undefined) await transport.#authenticate(options.username, options.password ?? '');
      return transport;
    } catch (cause) {
      client.close();
      if (cause instanceof MeshError) throw cause;
      throw await findCause({
        host: url.hostname.replace(/^\[|\]$/g, ''),
        port,
        tls,
        timeoutMs: timing.connectMs,
        cause,
        endpoint,
      });
    }
  }

  request<Answer>(method: string, message: Buffer, decode: (data: Buffer) => Answer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + this.#timing.requestMs };
      this.#client.makeUnaryRequest(
        `/etcdserverpb.${method}`,
        pass,
        decode,
        message,
        this.#metadata,
        options,
        (error, answer) => {
          if (error === null && answer !== undefined) resolve(answer);
          else reject(classify(error, this.endpoint));
        },
      );
    });
  }

  stream(method: string): Stream {
    const metadata = this.#metadata.clone();
    // A member that lost its leader must end the stream instead of keeping it silent for ever.
    if (method.startsWith('Watch')) metadata.set('hasleader', 'true');
    return this.#client.makeBidiStreamRequest(`/etcdserverpb.${method}`, pass, pass, metadata);
  }

  close(): void {
    this.#client.close();
  }

  #ready(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#client.waitForReady(Date.now() + this.#timing.connectMs, (error) => (error ? reject(error) : resolve()));
    });
  }

  async #authenticate(name: string, password: string): Promise<void> {
    const token = await this.request('Auth/Authenticate', encodeAuthenticate(name, password), decodeAuthenticate);
    this.#metadata.set('token', token);
  }
}

export interface TlsMaterial {
  readonly ca: Buffer | null;
  readonly cert: Buffer | null;
  readonly key: Buffer | null;
}

async function readTls(options: EtcdOptions): Promise<TlsMaterial> {
  const read = async (path: string | undefined): Promise<Buffer | null> => {
    if (path === undefined) return null;
    try {
      return await readFile(path);
    } catch (cause) {
      throw new MeshError('KVS-FILE', messageOf(cause), { place: path, cause });
    }
  };
  const [ca, cert, key] = await Promise.all([read(options.ca), read(options.cert), read(options.key)]);
  return { ca, cert, key };
}

/** A gRPC error in the words of the table. */
export function classify(error: unknown, endpoint: string): MeshError {
  const place = { place: endpoint, cause: error };
  const { code, details } = (error ?? {}) as Partial<grpc.ServiceError>;
  const text = details ?? messageOf(error);
  if (code === grpc.status.PERMISSION_DENIED || code === grpc.status.UNAUTHENTICATED)
    return new MeshError('KVS-AUTH', text, place);
  if (/authentication failed|user name is empty|invalid auth token|permission denied/i.test(text))
    return new MeshError('KVS-AUTH', text, place);
  if (/no leader|leader changed|request timed out/i.test(text)) return new MeshError('KVS-NO-QUORUM', text, place);
  if (code === grpc.status.DEADLINE_EXCEEDED) return new MeshError('KVS-TIMEOUT', text, place);
  return new MeshError('KVS-LOST', text, place);
}

/** True when the store says that the revision asked for is compacted away. */
export function isCompacted(error: unknown): boolean {
  return /required revision has been compacted/.test(messageOf(error));
}
