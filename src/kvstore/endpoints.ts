import { MeshError } from '../core/errors.ts';
import type { EtcdOptions } from './etcd-config.ts';
import { decodeRange, encodeRange, type ResponseHeader } from './messages.ts';
import { HEARTBEAT_KEY } from './paths.ts';
import { isForbidden, Transport, type TransportTiming } from './transport.ts';

/** An endpoint that has not answered after so long gets a rival, milliseconds. */
const STAGGER_MS = 750;

export interface Candidate {
  readonly transport: Transport;
  /** Of the first answer; undefined when access control forbade it. */
  readonly header: ResponseHeader | undefined;
}

export interface ConnectOptions {
  readonly etcd: EtcdOptions;
  readonly timing: TransportTiming;
  readonly signal: AbortSignal;
  /** The endpoint that failed last: it comes last, since it may accept connections and still be broken. */
  readonly avoid: string | undefined;
  /** Told of every endpoint that failed, as long as none has answered. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * The first endpoint that answers a read through the quorum; a refusal by access control is an answer, too. The next one
 * is tried as soon as one fails or is slow. Rejects with the last failure when all have failed.
 */
export async function connectFirst(options: ConnectOptions): Promise<Candidate> {
  const { etcd, signal, avoid, onFailure } = options;
  const order = shuffled(etcd.endpoints).sort((a, b) => Number(a === avoid) - Number(b === avoid));
  const over = new AbortController();
  const ended = AbortSignal.any([signal, over.signal]);
  return new Promise((resolve, reject) => {
    let running = 0;
    let won = false;
    let lastError: unknown = new MeshError('KVS-CONFIG', 'no endpoint is configured');
    const next = (): void => {
      if (won) return;
      const endpoint = signal.aborted ? undefined : order.shift();
      if (endpoint === undefined) {
        if (running === 0) reject(lastError);
        return;
      }
      running++;
      const timer = setTimeout(next, STAGGER_MS);
      attempt(endpoint, options, ended)
        .then(
          (candidate) => {
            if (won || signal.aborted) return candidate.transport.close();
            won = true;
            over.abort();
            resolve(candidate);
          },
          (error: unknown) => {
            if (won || signal.aborted) return;
            lastError = error;
            onFailure(error);
          },
        )
        .finally(() => {
          clearTimeout(timer);
          running--;
          next();
        });
    };
    next();
  });
}

async function attempt(endpoint: string, { etcd, timing }: ConnectOptions, signal: AbortSignal): Promise<Candidate> {
  const transport = await Transport.connect(endpoint, etcd, timing, signal);
  const close = (): void => transport.close();
  signal.addEventListener('abort', close, { once: true });
  try {
    const answer = await transport.request('KV/Range', encodeRange({ key: HEARTBEAT_KEY }), decodeRange);
    return { transport, header: answer.header };
  } catch (error) {
    if (isForbidden(error)) return { transport, header: undefined };
    transport.close();
    throw error;
  } finally {
    signal.removeEventListener('abort', close);
  }
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
