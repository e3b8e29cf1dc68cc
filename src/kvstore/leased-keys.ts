import { Backoff } from '../core/backoff.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { JobGroup, sleep } from '../core/job.ts';
import type { Connection } from './connection.ts';
import { LeasePool, type Slot } from './lease-pool.ts';
import type { Session } from './session.ts';
import type { PrefixWatch } from './store.ts';
import {
  type Condition,
  MAX_OPERATIONS,
  type Operation,
  type Transaction,
  type TransactionResult,
} from './transaction.ts';
import type { PrefixContent } from './writer-store.ts';

export interface LeasedKeysOptions {
  /** 15 minutes by default, as Cilium has it. */
  readonly ttlSeconds?: number;
  /**
   * Everything under these is ours: what is there at the start, from us before a restart or from the leader before us, is
   * taken over with its lease and not written again; `sweep` removes what nobody has set by then. Keys are watched:
   * one that someone removes or changes is written again.
   */
  readonly prefixes: readonly string[];
  /** Conditions of every write: those of the leader. */
  readonly guard?: () => readonly Condition[];
  /** The guard did not hold: nothing was written, and nothing will be. Called once. */
  readonly onRefused?: () => void;
  /** Keys written or removed in a second, at most; 10,000 by default. */
  readonly rate?: number;
}

/**
 * Many keys (hundreds of thousands) under leases of at most 1000 keys each, as Cilium does it. `set` and `remove` say
 * what shall be; it is written in the background, in transactions of up to 128, in the order in which it was said,
 * and again whenever a lease, a key or the whole data set was lost.
 */
export interface LeasedKeys {
  /** Keys that shall be there. */
  readonly size: number;
  /** Writes and removals that the store has not confirmed yet. */
  readonly pending: number;
  readonly leases: number;
  readonly lastError: string | undefined;
  /** What shall be there under this key. */
  get(key: string): Buffer | undefined;
  /** All keys that shall be there. */
  keys(): Iterable<string>;
  /** Whole keys, all under one of the prefixes. */
  set(key: string, value: string | Buffer): void;
  remove(key: string): void;
  /** Removes what was found under the prefixes and was not set since; from then on foreign keys there are removed, too. */
  sweep(): void;
  /** Resolves when the store has confirmed all that was said up to now; rejects when it is closed or refused before. */
  settled(): Promise<void>;
  /** Removes all keys (best effort), or with `keep` leaves them to their leases, for whoever comes next. */
  close(options?: { readonly keep?: boolean }): Promise<void>;
}

export interface LeasedKeysStore {
  readonly session: Pick<Session, 'follow' | 'watchPrefix'>;
  transact(transaction: Transaction): Promise<TransactionResult>;
  readPrefix(prefix: string): Promise<PrefixContent>;
}

const TTL_SECONDS = 900;
const RATE = 10_000;
const MAX_BATCH_BYTES = 512 << 10;
const REMOVE_ALL_MS = 10_000;

/**
 * Bytes as a string, one character each: a string takes its bytes and 16 more, a buffer of its own ten times as much beside
 * them, and a buffer of the pool keeps a whole slab of it.
 */
type Bytes = string;

function bytesOf(value: string | Buffer): Bytes {
  return (typeof value === 'string' ? Buffer.from(value) : value).toString('latin1');
}

function bufferOf(bytes: Bytes): Buffer {
  return Buffer.from(bytes, 'latin1');
}

/** What the store is known to hold. */
interface Held {
  readonly value: Bytes;
  readonly slot: Slot | undefined;
  readonly revision: number;
  /** The list in which it was seen last. */
  list: number;
}

/** A key on its way: `value` is undefined when it is to be removed. */
interface Write {
  readonly key: string;
  readonly sequence: number;
  readonly value: Bytes | undefined;
  readonly slot: Slot | undefined;
  /** Whether the place in the lease was taken for this write. */
  readonly taken: boolean;
}

export class LeasedKeySet implements LeasedKeys {
  readonly #store: LeasedKeysStore;
  readonly #options: LeasedKeysOptions;
  readonly #pool: LeasePool;
  readonly #jobs: JobGroup;
  readonly #wanted = new Map<string, Bytes>();
  readonly #held = new Map<string, Held>();
  /** Keys to look at, in order, each with the number of what was said last about it. */
  readonly #queue = new Map<string, number>();
  readonly #waiting = new Set<{ sequence: number; resolve: () => void; reject: (error: unknown) => void }>();
  readonly #watches: PrefixWatch[];
  readonly #unfollow: () => void;
  #connection: Connection | undefined;
  /** Whether what the store held was read since the data set is this one. */
  #adopted = false;
  #sweeping = false;
  #sequence = 0;
  #revision = 0;
  #batch = MAX_OPERATIONS;
  #ended: MeshError | undefined;
  #wakeUp = new AbortController();
  lastError: string | undefined;

  constructor(store: LeasedKeysStore, options: LeasedKeysOptions) {
    this.#store = store;
    this.#options = options;
    this.#jobs = new JobGroup((_name, error) => {
      this.lastError = messageOf(error);
    });
    this.#pool = new LeasePool(options.ttlSeconds ?? TTL_SECONDS, this.#jobs, (slot) => this.#lost(slot));
    this.#watches = options.prefixes.map((prefix) => this.#watch(prefix));
    this.#unfollow = store.session.follow({
      connect: (connection) => {
        this.#connection = connection;
        this.#pool.connect(connection);
        this.#wake();
      },
      disconnect: () => {
        this.#connection = undefined;
        this.#pool.disconnect();
      },
      forget: () => {
        this.#pool.forget();
        this.#held.clear();
        this.#adopted = false;
        for (const key of this.#wanted.keys()) this.#lookAgain(key);
      },
    });
    this.#jobs.start('leased keys', (signal) => this.#run(signal));
  }

  get size(): number {
    return this.#wanted.size;
  }

  get pending(): number {
    return this.#queue.size;
  }

  get leases(): number {
    return this.#pool.size;
  }

  get(key: string): Buffer | undefined {
    const found = this.#wanted.get(key);
    return found === undefined ? undefined : bufferOf(found);
  }

  keys(): Iterable<string> {
    return this.#wanted.keys();
  }

  set(key: string, value: string | Buffer): void {
    if (!this.#options.prefixes.some((prefix) => key.startsWith(prefix)))
      throw new RangeError(`${key} is under none of the prefixes`);
    const next = bytesOf(value);
    if (this.#wanted.get(key) === next) return;
    const held = this.#held.get(key)?.value;
    this.#wanted.set(key, held === next ? held : next);
    this.#look(key);
  }

  remove(key: string): void {
    if (this.#wanted.delete(key) || this.#held.has(key)) this.#look(key);
  }

  sweep(): void {
    this.#sweeping = true;
    for (const key of this.#held.keys()) if (!this.#wanted.has(key)) this.#look(key);
    this.#wake();
  }

  settled(): Promise<void> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#waiting.add({ sequence: this.#sequence, resolve, reject });
      this.#tellSettled();
    });
  }

  async close({ keep = false } = {}): Promise<void> {
    for (const watch of this.#watches) watch.close();
    if (!keep && this.#ended === undefined && this.#connection !== undefined) {
      this.#wanted.clear();
      this.sweep();
      const late = sleep(REMOVE_ALL_MS, this.#jobs.signal);
      await Promise.race([this.settled().catch(() => {}), late]);
    }
    this.#end(new MeshError('KVS-LOST', 'the keys are closed'));
    this.#unfollow();
    this.#pool.disconnect();
    await this.#jobs.stop();
  }

  #end(error: MeshError): void {
    this.#ended ??= error;
    for (const waiting of this.#waiting) waiting.reject(this.#ended);
    this.#waiting.clear();
    this.#wake();
  }

  /** Something was seen about this key. One that waits already keeps its place: someone may wait for it. */
  #lookAgain(key: string): void {
    if (!this.#queue.has(key)) this.#look(key);
  }

  /** Something was said about this key. */
  #look(key: string): void {
    // At the end: what it depends on may have been said in between.
    this.#queue.delete(key);
    this.#queue.set(key, ++this.#sequence);
    this.#wake();
  }

  #wake(): void {
    // Aborting what is aborted costs an exception with its stack all the same: a fifth of the time for 250,000 keys.
    if (!this.#wakeUp.signal.aborted) this.#wakeUp.abort();
  }

  #lost(slot: Slot): void {
    for (const [key, held] of this.#held) {
      if (held.slot !== slot) continue;
      this.#held.delete(key);
      if (this.#wanted.has(key)) this.#lookAgain(key);
    }
  }

  #watch(prefix: string): PrefixWatch {
    let list = 0;
    let from = 0;
    return this.#store.session.watchPrefix(prefix, {
      listing: () => {
        list++;
        from = this.#revision;
      },
      put: (tail, value, revision) => this.#seen(prefix + tail, { value, revision, list }),
      remove: (tail) => this.#gone(prefix + tail),
      listed: () => {
        // What was written since the list began may be missing in it.
        for (const [key, held] of this.#held)
          if (held.list < list && held.revision <= from && key.startsWith(prefix)) this.#gone(key);
      },
    });
  }

  #seen(key: string, seen: { value: Buffer; revision: number; list: number }): void {
    const held = this.#held.get(key);
    if (held !== undefined) held.list = seen.list;
    // The first list of leases tells the same, and more.
    if (!this.#adopted || seen.revision <= (held?.revision ?? 0)) return;
    const wanted = this.#wanted.get(key);
    const value = bytesOf(seen.value);
    if (wanted === value) return;
    this.#held.set(key, { ...seen, value, slot: undefined });
    if (wanted !== undefined || this.#sweeping) this.#lookAgain(key);
  }

  #gone(key: string): void {
    const held = this.#held.get(key);
    if (held === undefined) return;
    this.#held.delete(key);
    if (held.slot !== undefined) held.slot.count--;
    if (this.#wanted.has(key)) this.#lookAgain(key);
  }

  async #run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: 100, maxMs: 5000 });
    while (!signal.aborted && this.#ended === undefined) {
      this.#wakeUp = new AbortController();
      const connection = this.#connection;
      try {
        if (connection !== undefined && !this.#adopted) await this.#adopt(connection);
        if (connection !== undefined && this.#adopted && this.#queue.size > 0) {
          await this.#writeSome(connection, signal);
          backoff.reset();
          continue;
        }
      } catch (error) {
        this.lastError = messageOf(error);
        await sleep(backoff.next(), signal);
        continue;
      }
      await sleep(3_600_000, AbortSignal.any([signal, this.#wakeUp.signal]));
    }
  }

  /** What is there already, with its leases. */
  async #adopt(connection: Connection): Promise<void> {
    for (const prefix of this.#options.prefixes) {
      const { entries, revision } = await this.#store.readPrefix(prefix);
      if (this.#connection !== connection) return;
      this.#revision = Math.max(this.#revision, revision);
      for (const { key: tail, value, lease, modRevision } of entries) {
        const key = prefix + tail;
        const slot = lease === '0' ? undefined : this.#pool.adopt(lease, connection);
        const [bytes, wanted] = [bytesOf(value), this.#wanted.get(key)];
        // Equal ones are one in memory.
        this.#held.set(key, { value: wanted === bytes ? wanted : bytes, slot, revision: modRevision, list: 0 });
        if (this.#wanted.has(key) || this.#sweeping) this.#lookAgain(key);
      }
    }
    for (const key of this.#wanted.keys()) if (!this.#held.has(key)) this.#lookAgain(key);
    this.#adopted = true;
    // Maybe there is nothing to write.
    this.#tellSettled();
  }

  async #writeSome(connection: Connection, signal: AbortSignal): Promise<void> {
    const started = performance.now();
    const writes = await this.#next(connection);
    if (writes.length > 0) {
      const result = await this.#transact(writes);
      if (result === undefined) return;
      this.#confirm(writes, result.revision);
    }
    this.lastError = undefined;
    this.#tellSettled();
    const pause = (writes.length * 1000) / (this.#options.rate ?? RATE) - (performance.now() - started);
    if (pause > 0) await sleep(pause, signal);
  }

  /** The keys of the next transaction; those that are as they shall be are done. */
  async #next(connection: Connection): Promise<Write[]> {
    const writes: Write[] = [];
    let bytes = 0;
    for (const [key, sequence] of this.#queue) {
      if (writes.length >= this.#batch || bytes > MAX_BATCH_BYTES) break;
      const value = this.#wanted.get(key);
      const held = this.#held.get(key);
      const fine = value === undefined ? held === undefined : held?.slot !== undefined && held.value === value;
      if (fine) {
        this.#queue.delete(key);
        continue;
      }
      const taken = value !== undefined && held?.slot === undefined;
      const slot = taken ? await this.#pool.take(connection) : held?.slot;
      writes.push({ key, sequence, value, slot, taken });
      bytes += key.length + (value?.length ?? 0);
    }
    return writes;
  }

  /** Undefined when the batch must be made anew. */
  async #transact(writes: readonly Write[]): Promise<TransactionResult | undefined> {
    const perform = writes.map(
      ({ key, value, slot }): Operation =>
        value === undefined ? { remove: key } : { put: key, value: bufferOf(value), lease: slot?.id ?? '0' },
    );
    try {
      const result = await this.#store.transact({ when: this.#options.guard?.() ?? [], perform });
      if (result.succeeded) {
        this.#batch = MAX_OPERATIONS;
        return result;
      }
      this.#end(new MeshError('HUB-NOT-LEADER', 'keys are not written any more'));
      this.#options.onRefused?.();
    } catch (error) {
      for (const { slot, taken } of writes) if (taken && slot !== undefined) slot.count--;
      this.#failed(writes, error);
    }
    return undefined;
  }

  #failed(writes: readonly Write[], error: unknown): void {
    const message = messageOf(error);
    if (/requested lease not found/.test(message)) {
      for (const slot of new Set(writes.map((write) => write.slot))) slot?.lease.lose();
      return;
    }
    if (!/request is too large|received message larger than max/.test(message)) throw error;
    if (writes.length > 1) {
      this.#batch = Math.max(1, writes.length >> 2);
      return;
    }
    // No other try can help; the rest must go on.
    const [write] = writes;
    if (write !== undefined) this.#queue.delete(write.key);
    this.lastError = `${write?.key}: ${message}`;
  }

  #confirm(writes: readonly Write[], revision: number): void {
    this.#revision = Math.max(this.#revision, revision);
    for (const { key, sequence, value, slot, taken } of writes) {
      const held = this.#held.get(key);
      if (value === undefined) {
        if (held?.slot !== undefined) held.slot.count--;
        this.#held.delete(key);
      } else if (slot?.lease.lost === true) {
        // Lost while the answer was on its way: it is in the queue still.
        this.#held.delete(key);
        continue;
      } else {
        // Someone took the key away in between, and its place with it.
        if (!taken && held === undefined && slot !== undefined) slot.count++;
        this.#held.set(key, { value, slot, revision, list: 0 });
      }
      if (this.#queue.get(key) === sequence) this.#queue.delete(key);
    }
  }

  #tellSettled(): void {
    const [first] = this.#queue.values();
    for (const waiting of this.#waiting) {
      if (!this.#adopted || (first !== undefined && first <= waiting.sequence)) continue;
      this.#waiting.delete(waiting);
      waiting.resolve();
    }
  }
}
