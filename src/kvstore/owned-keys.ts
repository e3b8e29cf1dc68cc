import { messageOf } from '../core/errors.ts';
import { type JobGroup, sleep } from '../core/job.ts';
import { decodeLease, decodeShort, encodeDelete, encodeLeaseGrant, encodeLeaseId, encodePut } from './messages.ts';
import type { Connection } from './session.ts';
import type { OwnedKey } from './store.ts';
import type { Stream } from './transport.ts';

/** How often a key of ours is compared with the store and written again if it is missing, milliseconds. */
const ASSERT_MS = 5 * 60_000;
const RETRY_MS = 500;

/**
 * Keys that we keep alive: each is written under a lease of its time to live; a lost lease, a lost data set or a foreign
 * delete leads to a new write. A few keys share a lease, so the store sees one keepalive for all of them.
 */
export class OwnedKeys {
  readonly #jobs: JobGroup;
  readonly #keys = new Set<Owned>();
  readonly #leases = new Map<number, Lease>();
  #connection: Connection | undefined;

  constructor(jobs: JobGroup) {
    this.#jobs = jobs;
    jobs.start('own keys', (signal) => this.#run(signal));
  }

  get leases(): number {
    return [...this.#leases.values()].filter((lease) => lease.id !== undefined).length;
  }

  add(key: string, value: Buffer, ttlSeconds: number): OwnedKey {
    const owned = new Owned(key, value, ttlSeconds);
    this.#keys.add(owned);
    this.#wake();
    return {
      key,
      get written() {
        return owned.written;
      },
      get lastError() {
        return owned.lastError;
      },
      update: (next) => {
        owned.value = Buffer.from(next);
        owned.written = false;
        this.#wake();
      },
      release: async (options = {}) => {
        this.#keys.delete(owned);
        if (options.keep === true || this.#connection === undefined) return;
        await this.#connection.transport.request('KV/DeleteRange', encodeDelete(key), decodeShort).catch(() => {});
      },
    };
  }

  connect(connection: Connection): void {
    this.#connection = connection;
    // What the store holds after a break is unknown until it was read.
    for (const owned of this.#keys) owned.checked = false;
    for (const lease of this.#leases.values()) lease.connect(connection, this.#jobs, () => this.#lost(lease));
    this.#wake();
  }

  disconnect(): void {
    this.#connection = undefined;
    for (const lease of this.#leases.values()) lease.disconnect();
  }

  forget(): void {
    for (const lease of this.#leases.values()) lease.disconnect();
    this.#leases.clear();
    for (const owned of this.#keys) owned.written = false;
  }

  /** Leaves the keys to their leases: a stopped agent is not a machine that left. */
  async close(_connection: Connection | undefined): Promise<void> {
    this.disconnect();
    this.#wake();
  }

  #lost(lease: Lease): void {
    if (this.#leases.get(lease.ttlSeconds) === lease) this.#leases.delete(lease.ttlSeconds);
    for (const owned of this.#keys) if (owned.ttlSeconds === lease.ttlSeconds) owned.written = false;
    this.#wake();
  }

  #wakeUp: (() => void) | undefined;

  #wake(): void {
    this.#wakeUp?.();
  }

  async #run(signal: AbortSignal): Promise<void> {
    let asserted = performance.now();
    while (!signal.aborted) {
      let retry = false;
      for (const owned of this.#keys) {
        if (this.#connection !== undefined && !(owned.written && owned.checked))
          retry = !(await this.#write(owned, this.#connection)) || retry;
      }
      await this.#pause(retry ? RETRY_MS : ASSERT_MS, signal);
      if (performance.now() - asserted < ASSERT_MS) continue;
      asserted = performance.now();
      for (const owned of this.#keys) owned.checked = false;
    }
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    const early = new AbortController();
    this.#wakeUp = () => early.abort();
    await sleep(ms, AbortSignal.any([signal, early.signal]));
  }

  /** True when the store holds our present value. */
  async #write(owned: Owned, connection: Connection): Promise<boolean> {
    const { value } = owned;
    try {
      const lease = await this.#lease(owned.ttlSeconds, connection);
      if (!(owned.written && (await isOurs(owned, connection, lease)))) {
        const put = encodePut(owned.key, value, lease.id ?? 0n);
        connection.seen((await connection.transport.request('KV/Put', put, decodeShort)).header);
      }
      owned.written = owned.value === value;
      owned.checked = owned.written;
      owned.lastError = undefined;
    } catch (error) {
      owned.lastError = messageOf(error);
      if (/requested lease not found/.test(owned.lastError)) this.#leases.delete(owned.ttlSeconds);
      return false;
    }
    return owned.written;
  }

  async #lease(ttlSeconds: number, connection: Connection): Promise<Lease> {
    const known = this.#leases.get(ttlSeconds);
    if (known?.id !== undefined) return known;
    const lease = new Lease(ttlSeconds);
    await lease.grant(connection);
    this.#leases.set(ttlSeconds, lease);
    lease.connect(connection, this.#jobs, () => this.#lost(lease));
    return lease;
  }
}

/** A key that another writer answered in (a registration) stays as it is, as long as it lives under our lease. */
async function isOurs(owned: Owned, connection: Connection, lease: Lease): Promise<boolean> {
  const { kvs } = await connection.range({ key: owned.key });
  const found = kvs[0];
  return found !== undefined && (found.lease === lease.id || !found.value.equals(owned.value));
}

class Owned {
  readonly key: string;
  readonly ttlSeconds: number;
  value: Buffer;
  written = false;
  checked = false;
  lastError: string | undefined;

  constructor(key: string, value: Buffer, ttlSeconds: number) {
    this.key = key;
    this.value = value;
    this.ttlSeconds = ttlSeconds;
  }
}

class Lease {
  readonly ttlSeconds: number;
  id: bigint | undefined;
  #stream: Stream | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(ttlSeconds: number) {
    this.ttlSeconds = ttlSeconds;
  }

  async grant(connection: Connection): Promise<void> {
    const answer = await connection.transport.request(
      'Lease/LeaseGrant',
      encodeLeaseGrant(this.ttlSeconds),
      decodeLease,
    );
    connection.seen(answer.header);
    this.id = answer.id;
  }

  /** Keeps the lease alive over this connection, from now on every third of its life. */
  connect(connection: Connection, _jobs: JobGroup, onLost: () => void): void {
    this.disconnect();
    const { id } = this;
    if (id === undefined) return;
    const stream = connection.transport.stream('Lease/LeaseKeepAlive');
    this.#stream = stream;
    stream.on('data', (data: Buffer) => {
      const answer = decodeLease(data);
      if (answer.ttl > 0 || this.#stream !== stream) return;
      this.id = undefined;
      this.disconnect();
      onLost();
    });
    // The end of the stream is the end of the connection, which the session notices by itself.
    stream.on('error', () => {});
    const beat = (): void => void stream.write(encodeLeaseId(id));
    beat();
    this.#timer = setInterval(beat, Math.max(500, (this.ttlSeconds * 1000) / 3));
    this.#timer.unref();
  }

  disconnect(): void {
    clearInterval(this.#timer);
    this.#stream?.cancel();
    this.#stream = undefined;
  }
}
