import { messageOf } from '../core/errors.ts';
import { type JobGroup, sleep } from '../core/job.ts';
import type { Connection } from './connection.ts';
import { Lease } from './lease.ts';
import { decodeShort, encodeDelete, encodePut } from './messages.ts';
import type { PrefixWatches } from './prefix-watches.ts';
import type { OwnedKey, PrefixWatch } from './store.ts';
import type { Troubles } from './troubles.ts';

/** How often a key of ours is looked at even though nothing seems to have happened, milliseconds. */
const ASSERT_MS = 5 * 60_000;
const RETRY_MS = 500;
const MAX_RETRY_MS = 15_000;
/** Whoever deletes our key in a loop gets it back in a slow one, milliseconds. */
const MIN_ROUND_MS = 100;

/**
 * Keys that we keep alive. Each is written under a lease of its time to live, which keys of the same time share, and is
 * watched: a key that vanished is written again. What another writer put there is an answer (a registration is answered in its own
 * key, under the lease of whoever answers), and is left alone.
 *
 * A key is *pending* (our value must be written, whatever is there), *unchecked* (look whether something is there), or settled.
 */
export class OwnedKeys {
  readonly #jobs: JobGroup;
  readonly #watches: PrefixWatches;
  readonly #troubles: Troubles;
  readonly #keys = new Set<Owned>();
  readonly #leases = new Map<number, Lease>();
  #connection: Connection | undefined;
  #wakeUp = new AbortController();

  constructor(jobs: JobGroup, watches: PrefixWatches, troubles: Troubles) {
    this.#jobs = jobs;
    this.#watches = watches;
    this.#troubles = troubles;
    jobs.start('own keys', (signal) => this.#run(signal));
  }

  get leases(): number {
    return this.#leases.size;
  }

  add(key: string, value: Buffer, ttlSeconds: number): OwnedKey {
    const owned = new Owned(key, value, ttlSeconds);
    this.#keys.add(owned);
    owned.watch = this.#watchOver(owned);
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
        owned.state = 'pending';
        owned.written = false;
        this.#wake();
      },
      renewEvery: (seconds) => {
        owned.pace = seconds;
        this.#setPace(ttlSeconds);
      },
      release: ({ keep = false } = {}) => this.#release(owned, keep),
    };
  }

  connect(connection: Connection): void {
    this.#connection = connection;
    // What the store holds after a break is unknown until it was read.
    for (const owned of this.#keys) owned.doubt();
    for (const lease of this.#leases.values()) lease.connect(connection, this.#jobs);
    this.#wake();
  }

  disconnect(): void {
    this.#connection = undefined;
    for (const lease of this.#leases.values()) lease.disconnect();
  }

  /** Another data set: our leases are unknown there. */
  forget(): void {
    for (const lease of this.#leases.values()) lease.disconnect();
    this.#leases.clear();
    for (const owned of this.#keys) owned.vanish();
  }

  #watchOver(owned: Owned): PrefixWatch {
    let present = false;
    const check = (): void => {
      if (present) return;
      owned.vanish();
      this.#wake();
    };
    return this.#watches.addKey(owned.key, {
      listing: () => {
        present = false;
      },
      put: () => {
        present = true;
      },
      remove: () => {
        present = false;
        check();
      },
      listed: check,
    });
  }

  async #release(owned: Owned, keep: boolean): Promise<void> {
    if (!this.#keys.delete(owned)) return;
    owned.watch?.close();
    this.#troubles.clear(subjectOf(owned));
    // A write that is under way must not come after the delete.
    await owned.writing;
    const connection = this.#connection;
    const lease = this.#leases.get(owned.ttlSeconds);
    const shared = [...this.#keys].some((other) => other.ttlSeconds === owned.ttlSeconds);
    if (!shared) this.#leases.delete(owned.ttlSeconds);
    if (!shared) lease?.disconnect();
    if (keep || connection === undefined) return;
    await connection.request('KV/DeleteRange', encodeDelete(owned.key), decodeShort).catch(() => {});
    if (!shared) await lease?.revoke(connection);
  }

  #lost(lease: Lease): void {
    if (this.#leases.get(lease.ttlSeconds) === lease) this.#leases.delete(lease.ttlSeconds);
    for (const owned of this.#keys) if (owned.ttlSeconds === lease.ttlSeconds) owned.vanish();
    this.#wake();
  }

  /** Keys that share a lease share its pace: that of the most eager. */
  #setPace(ttlSeconds: number): void {
    const paces = [...this.#keys].flatMap((owned) =>
      owned.ttlSeconds === ttlSeconds && owned.pace !== undefined ? [owned.pace] : [],
    );
    this.#leases.get(ttlSeconds)?.renewEvery(paces.length === 0 ? undefined : Math.min(...paces));
  }

  #wake(): void {
    this.#wakeUp.abort();
  }

  async #run(signal: AbortSignal): Promise<void> {
    let asserted = performance.now();
    let failures = 0;
    while (!signal.aborted) {
      // Made before the keys are looked at: whatever happens during the round leads to another one.
      this.#wakeUp = new AbortController();
      const fine = await this.#round();
      failures = fine ? 0 : failures + 1;
      await sleep(MIN_ROUND_MS, signal);
      // A failing key does not listen to being woken, or an unreachable one would be tried without a pause.
      if (fine) await sleep(ASSERT_MS, AbortSignal.any([signal, this.#wakeUp.signal]));
      else await sleep(Math.min(MAX_RETRY_MS, RETRY_MS * failures), signal);
      if (performance.now() - asserted < ASSERT_MS) continue;
      asserted = performance.now();
      for (const owned of this.#keys) owned.doubt();
    }
  }

  /** True when there is nothing left to do. */
  async #round(): Promise<boolean> {
    let fine = true;
    for (const owned of this.#keys) {
      const connection = this.#connection;
      // Without a connection there is nothing to try; the next one wakes us.
      if (connection === undefined) return true;
      if (owned.state === 'settled') continue;
      owned.writing = this.#settle(owned, connection);
      fine = (await owned.writing) && fine;
    }
    return fine;
  }

  /** Never rejects; true when the key needs nothing more. */
  async #settle(owned: Owned, connection: Connection): Promise<boolean> {
    const { value } = owned;
    const version = owned.doubts;
    try {
      const lease = await this.#lease(owned.ttlSeconds, connection);
      if (owned.state === 'pending' || !(await isThere(owned, connection, lease)))
        await connection.request('KV/Put', encodePut(owned.key, value, lease.id), decodeShort);
      // An update or a doubt that came in between is not settled by what was done for the one before.
      if (owned.value === value) {
        owned.state = owned.doubts === version ? 'settled' : 'unchecked';
        owned.written = true;
      }
      owned.lastError = undefined;
      this.#troubles.clear(subjectOf(owned));
      return true;
    } catch (error) {
      if (this.#connection !== connection) return true;
      owned.lastError = messageOf(error);
      if (/requested lease not found/.test(owned.lastError)) this.#leases.get(owned.ttlSeconds)?.lose();
      else this.#troubles.set(subjectOf(owned), error);
      return false;
    }
  }

  async #lease(ttlSeconds: number, connection: Connection): Promise<Lease> {
    const known = this.#leases.get(ttlSeconds);
    if (known !== undefined) return known;
    const lease = await Lease.grant(connection, ttlSeconds, (lost) => this.#lost(lost));
    if (this.#connection === connection) {
      this.#leases.set(ttlSeconds, lease);
      this.#setPace(ttlSeconds);
      lease.connect(connection, this.#jobs);
    }
    return lease;
  }
}

/** Whether the key is there under our lease, or with another writer's value. */
async function isThere(owned: Owned, connection: Connection, lease: Lease): Promise<boolean> {
  const { kvs } = await connection.range({ key: owned.key });
  const found = kvs[0];
  return found !== undefined && (found.lease === lease.id || !found.value.equals(owned.value));
}

function subjectOf(owned: Owned): string {
  return `key ${owned.key}`;
}

class Owned {
  readonly key: string;
  readonly ttlSeconds: number;
  value: Buffer;
  state: 'pending' | 'unchecked' | 'settled' = 'pending';
  written = false;
  /** How often something made the settled state doubtful. */
  doubts = 0;
  lastError: string | undefined;
  /** Seconds between renewals of its lease, when they are to be more than it needs. */
  pace: number | undefined;
  watch: PrefixWatch | undefined;
  writing: Promise<boolean> | undefined;

  constructor(key: string, value: Buffer, ttlSeconds: number) {
    this.key = key;
    this.value = value;
    this.ttlSeconds = ttlSeconds;
  }

  doubt(): void {
    this.doubts++;
    if (this.state === 'settled') this.state = 'unchecked';
  }

  /** Not there, or not for long. Another writer may still be faster than we: look before it is written. */
  vanish(): void {
    this.doubt();
    this.written = false;
  }
}
