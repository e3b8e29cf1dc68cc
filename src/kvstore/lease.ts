import { type JobGroup, sleep } from '../core/job.ts';
import type { Connection } from './connection.ts';
import { decodeLease, encodeLeaseGrant, encodeLeaseId } from './messages.ts';
import { notEtcd } from './transport.ts';

const MIN_BEAT_MS = 250;
const RETRY_MS = 500;

/**
 * One lease of the store, kept alive at a third of its life, or oftener, over whatever connection there is. It outlives connections;
 * when the store does not know it any more it is lost, once and for all.
 */
export class Lease {
  readonly id: bigint;
  readonly ttlSeconds: number;
  readonly #onLost: () => void;
  #abort: AbortController | undefined;
  #paceMs: number | undefined;
  /** Renews it now, over the stream that there is. */
  #renew: () => void = () => {};
  lost = false;

  private constructor(id: bigint, ttlSeconds: number, onLost: () => void) {
    this.id = id;
    this.ttlSeconds = ttlSeconds;
    this.#onLost = onLost;
  }

  static async grant(connection: Connection, ttlSeconds: number, onLost: (lease: Lease) => void): Promise<Lease> {
    const answer = await connection.request('Lease/LeaseGrant', encodeLeaseGrant(ttlSeconds), decodeLease);
    const lease: Lease = new Lease(answer.id, ttlSeconds, () => onLost(lease));
    return lease;
  }

  /** A lease that someone else was granted, who may be gone: whoever knows its id keeps it alive. */
  static adopt(id: bigint, ttlSeconds: number, onLost: (lease: Lease) => void): Lease {
    const lease: Lease = new Lease(id, ttlSeconds, () => onLost(lease));
    return lease;
  }

  /** Keeps it alive over this connection. */
  connect(connection: Connection, jobs: JobGroup): void {
    this.disconnect();
    if (this.lost) return;
    const abort = new AbortController();
    this.#abort = abort;
    jobs.start(`lease ${this.id.toString(16)}`, async (signal) => {
      const ended = AbortSignal.any([signal, abort.signal]);
      while (!ended.aborted) {
        await this.#beats(connection, ended);
        // etcd ends this stream alone when its leader changes, while the connection lives on.
        await sleep(RETRY_MS, ended);
      }
    });
  }

  /** From now on it is renewed so often, and not just as often as it has to be; undefined: no oftener. */
  renewEvery(seconds: number | undefined): void {
    const paceMs = seconds === undefined ? undefined : seconds * 1000;
    if (paceMs === this.#paceMs) return;
    this.#paceMs = paceMs;
    this.#renew();
  }

  disconnect(): void {
    this.#abort?.abort();
    this.#abort = undefined;
  }

  /** Takes the keys of this lease away with it; best effort. */
  async revoke(connection: Connection): Promise<void> {
    this.disconnect();
    this.lost = true;
    await connection.request('Lease/LeaseRevoke', encodeLeaseId(this.id), decodeLease).catch(() => {});
  }

  /** The store says that there is no such lease. */
  lose(): void {
    if (this.lost) return;
    this.lost = true;
    this.disconnect();
    this.#onLost();
  }

  /** Until the stream ends. */
  #beats(connection: Connection, ended: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const stream = connection.transport.stream('Lease/LeaseKeepAlive');
      let timer: NodeJS.Timeout | undefined;
      const beat = (): void => {
        stream.write(encodeLeaseId(this.id));
        clearTimeout(timer);
        const needed = (this.ttlSeconds * 1000) / 3;
        timer = setTimeout(beat, Math.max(MIN_BEAT_MS, Math.min(needed, this.#paceMs ?? needed))).unref();
      };
      this.#renew = beat;
      const stop = (): void => {
        clearTimeout(timer);
        this.#renew = () => {};
        ended.removeEventListener('abort', stop);
        stream.cancel();
        resolve();
      };
      ended.addEventListener('abort', stop, { once: true });
      // Canceling our own stream is an error of the stream, too.
      stream.on('error', stop);
      stream.on('end', stop);
      stream.on('data', (data: Buffer) => {
        if (ended.aborted) return;
        try {
          const answer = decodeLease(data);
          connection.seen(answer.header);
          if (answer.ttl <= 0) this.lose();
        } catch (error) {
          connection.fail(notEtcd(error, connection.transport.endpoint));
          stop();
        }
      });
      beat();
    });
  }
}
