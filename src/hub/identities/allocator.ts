import { Backoff } from '../../core/backoff.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { identity, identityBlock, type MaxClusters, type NumericIdentity } from '../../core/identity.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import { encodeLabels, type LabelSet } from '../../core/labels.ts';
import type { Slot } from '../../kvstore/lease-pool.ts';
import type { Condition, Operation, Transaction, TransactionResult } from '../../kvstore/transaction.ts';
import type { HubStore } from '../hub-store.ts';
import { AllocatorLeases } from './allocator-leases.ts';
import { lockKey, masterKey, quarantineKey, userKey } from './identity-keys.ts';
import { IdentityMirror } from './identity-mirror.ts';

export interface AllocatorOptions {
  readonly store: Pick<HubStore, 'session' | 'watchPrefix'>;
  /** One transaction; the leader's does nothing when its term is over. */
  readonly transact: (transaction: Transaction) => Promise<TransactionResult>;
  readonly clusterId: number;
  readonly max: MaxClusters;
  /** Names this allocator among those that use the same labels. */
  readonly suffix: string;
  /** Something is wrong that is tried again, or was put right. */
  readonly onProblem: (message: string) => void;
  readonly timing?: Partial<AllocatorTiming>;
}

/** Milliseconds. */
export interface AllocatorTiming {
  /** To get a lock. */
  readonly lockMs: number;
  /** How often everything in use is looked at. */
  readonly assertMs: number;
}

interface Used {
  references: number;
  readonly number: Promise<number>;
  known: number | undefined;
  slot: Slot | undefined;
}

const TIMING: AllocatorTiming = { lockMs: 60_000, assertMs: 5 * 60_000 };
const ATTEMPTS = 16;
const PICKS = 64;
/** `decodeIdentity` takes no more, and neither would other readers like it. */
const MAX_LABEL_BYTES = 32_768;

/**
 * Numbers for sets of labels: Cilium's kvstore allocator (kvstore specification 3.6). While it holds the lock of a label
 * set it is the only one that gives them a number, and a number is created only where none is; so one label set has one
 * number, and one number one label set, whoever else allocates in the same store.
 *
 *   locks/<labels>/<lease>    ours, and nobody waits before us
 *   id/<number> = labels      the master, without a lease: what others read
 *   value/<labels>/<suffix>   who uses it, under a lease: what keeps the master from being collected
 */
export class IdentityAllocator {
  readonly mirror: IdentityMirror;
  readonly leases: AllocatorLeases;
  readonly #options: AllocatorOptions;
  readonly #timing: AllocatorTiming;
  readonly #block: readonly [number, number];
  readonly #used = new Map<string, Used>();
  /** Label sets whose keys must be looked at. */
  readonly #doubtful = new Set<string>();
  readonly #locked = new Map<string, Promise<void>>();
  readonly #jobs = new JobGroup((name, error) => this.#options.onProblem(`${name} ended: ${messageOf(error)}`));
  #wakeUp = new AbortController();

  constructor(options: AllocatorOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
    this.#block = identityBlock(options.clusterId, options.max);
    this.leases = new AllocatorLeases(options.store.session, (slot) => {
      for (const [labels, used] of this.#used) if (slot === undefined || used.slot === slot) this.#doubt(labels);
    });
    this.mirror = new IdentityMirror(options.store, ({ labels, id }) => {
      for (const each of [labels, this.#labelsOf(id)])
        if (each !== undefined && this.#used.has(each)) this.#doubt(each);
    });
    this.#jobs.start('identities in use', (signal) => this.#assertAll(signal));
  }

  /** Label sets in use here. */
  get size(): number {
    return this.#used.size;
  }

  get block(): readonly [number, number] {
    return this.#block;
  }

  isUsed(labels: string): boolean {
    return this.#used.has(labels);
  }

  /** Resolves when everything that is there is known. @throws MeshError KVS-TIMEOUT */
  async ready(timeoutMs = 30_000): Promise<void> {
    if (!(await this.mirror.until(() => this.mirror.listed, { ms: timeoutMs, signal: this.#jobs.signal })))
      throw new MeshError('KVS-TIMEOUT', 'the identities were not listed in time');
  }

  /**
   * The number of these labels, with one more reference. The master is in the store when this resolves.
   * @throws MeshError HUB-IDENTITY, HUB-NOT-LEADER, KVS-*
   */
  async acquire(set: LabelSet): Promise<NumericIdentity> {
    const labels = checked(set);
    const known = this.#used.get(labels);
    if (known !== undefined) {
      known.references++;
      return identity(await known.number);
    }
    const used: Used = { references: 1, number: this.#allocate(labels), known: undefined, slot: undefined };
    this.#used.set(labels, used);
    try {
      used.known = await used.number;
      return identity(used.known);
    } catch (error) {
      if (this.#used.get(labels) === used) this.#used.delete(labels);
      throw error;
    }
  }

  /** One reference less. Without any, the number may be collected: our user key goes. Never rejects. */
  async release(set: LabelSet): Promise<void> {
    const labels = encodeLabels(set);
    const used = this.#used.get(labels);
    if (used === undefined || --used.references > 0) return;
    this.#used.delete(labels);
    await used.number.catch(() => undefined);
    // Somebody may have come back in the meantime.
    if (this.#used.has(labels)) return;
    if (used.slot !== undefined) used.slot.count--;
    // What cannot be removed now is removed later: nobody would ever ask again.
    await this.#removeUser(labels).catch(() => this.#doubt(labels));
  }

  async #removeUser(labels: string): Promise<void> {
    await this.#options.transact({ perform: [{ remove: userKey(labels, this.#options.suffix) }] });
  }

  /**
   * Does something while nobody else may give these labels a number. The transaction that `work` builds ends the lock.
   * @throws MeshError HUB-IDENTITY when the lock could not be had in time
   */
  locked<T>(labels: string, work: (lock: Held) => Promise<T>): Promise<T> {
    const before = this.#locked.get(labels) ?? Promise.resolve();
    const result = before.then(() => this.#withLock(labels, work));
    const settled = result.then(
      () => undefined,
      () => undefined,
    );
    this.#locked.set(labels, settled);
    settled.then(() => {
      if (this.#locked.get(labels) === settled) this.#locked.delete(labels);
    });
    return result;
  }

  /** Users stay for the time of their leases: whoever leads next finds them. */
  async close(): Promise<void> {
    this.#wakeUp.abort();
    await this.#jobs.stop();
    await this.leases.close();
    this.mirror.close();
  }

  async #allocate(labels: string): Promise<number> {
    const backoff = new Backoff({ minMs: 20, maxMs: 5000 });
    for (let attempt = 1; ; attempt++) {
      try {
        const number = await this.locked(labels, (lock) => this.#find(labels, lock));
        if (number !== undefined) return number;
      } catch (error) {
        const retryable = error instanceof MeshError && error.retryable && error.code.startsWith('KVS-');
        if (!retryable || attempt >= ATTEMPTS || this.#jobs.signal.aborted) throw error;
      }
      if (attempt >= ATTEMPTS)
        throw new MeshError('HUB-IDENTITY', `no number for ${shown(labels)} after ${attempt} attempts`);
      await sleep(backoff.next(), this.#jobs.signal);
    }
  }

  /** Under the lock: the number that is there, or a new one. Undefined when it has to be tried again. */
  async #find(labels: string, lock: Held): Promise<number | undefined> {
    const known = this.mirror.numberOf(labels);
    if (known !== undefined && known >= this.#block[0] && known <= this.#block[1]) {
      const master = this.mirror.master(known);
      // Its number was given to other labels: whoever still uses it must give it up, not we join in.
      if (master !== undefined && master.labels !== labels)
        throw new MeshError(
          'HUB-IDENTITY',
          `${known} is in use for ${shown(labels)} and belongs to ${shown(master.labels)}`,
        );
      return (await this.#take(labels, { lock, number: known, make: master === undefined ? 'again' : 'nothing' }))
        ? known
        : undefined;
    }
    const tried = new Set<number>();
    for (let pick = 0; pick < PICKS; pick++) {
      const number = this.#pick(tried);
      tried.add(number);
      if (await this.#take(labels, { lock, number, make: 'new' })) return number;
      if (!(await lock.check())) return undefined;
    }
    return undefined;
  }

  /** Writes our user key, and the master where there is none; false when the store is not as we thought. */
  async #take(
    labels: string,
    what: { readonly lock: Held; readonly number: number; readonly make: Make },
  ): Promise<boolean> {
    const { lock, number, make } = what;
    const slot = await this.leases.user();
    const missing: Condition = { key: masterKey(number), createRevision: 0 };
    const when: Record<Make, readonly Condition[]> = {
      nothing: [{ key: masterKey(number), value: labels }],
      // With its old meaning: it needs no quarantine.
      again: [missing],
      new: [missing, { key: quarantineKey(number), createRevision: 0 }],
    };
    const perform: Operation[] = [
      { put: userKey(labels, this.#options.suffix), value: String(number), lease: slot.id },
    ];
    if (make !== 'nothing') perform.unshift({ put: masterKey(number), value: labels });
    try {
      if (!(await lock.finish({ when: when[make], perform }))) {
        slot.count--;
        return false;
      }
    } catch (error) {
      slot.count--;
      if (/requested lease not found/.test(messageOf(error))) this.leases.lose(slot);
      throw error;
    }
    const used = this.#used.get(labels);
    if (used !== undefined) used.slot = slot;
    else slot.count--;
    return true;
  }

  /** A random one that nobody has and that was not found in quarantine just now. */
  #pick(tried: ReadonlySet<number>): number {
    const [first, last] = this.#block;
    const size = last - first + 1;
    const start = Math.floor(Math.random() * size);
    for (let i = 0; i < size; i++) {
      const number = first + ((start + i) % size);
      if (!tried.has(number) && this.mirror.master(number) === undefined) return number;
    }
    throw new MeshError('HUB-IDENTITY', `all ${size} numbers of the cluster are in use, or were until lately`);
  }

  async #withLock<T>(labels: string, work: (lock: Held) => Promise<T>): Promise<T> {
    const { transact } = this.#options;
    const holder = await this.leases.lock();
    const key = lockKey(labels, holder);
    const made = await this.#makeLock(key, holder);
    const condition: Condition = { key, createRevision: made };
    let over = false;
    const held: Held = {
      check: async () => (await transact({ when: [condition] })).succeeded,
      finish: async ({ when = [], perform = [] }) => {
        const result = await transact({ when: [condition, ...when], perform: [...perform, { remove: key }] });
        over ||= result.succeeded;
        return result.succeeded;
      },
    };
    try {
      const { lockMs } = this.#timing;
      const mine = await this.mirror.until(() => this.mirror.holds(labels, { holder, revision: made }), {
        ms: lockMs,
        signal: this.#jobs.signal,
      });
      if (!mine)
        throw new MeshError('HUB-IDENTITY', `the lock of ${shown(labels)} was not free within ${lockMs / 1000} s`);
      return await work(held);
    } finally {
      // Best effort: it ends with its lease, too.
      if (!over) await transact({ when: [condition], perform: [{ remove: key }] }).catch(() => undefined);
    }
  }

  /** @returns its create revision, by which those that wait are ordered */
  async #makeLock(key: string, lease: string): Promise<number> {
    try {
      const result = await this.#options.transact({
        when: [{ key, createRevision: 0 }],
        perform: [{ put: key, value: '', lease }, { get: key }],
        otherwise: [{ get: key }],
      });
      const found = result.answers.at(-1)?.found[0];
      if (found === undefined) throw new MeshError('HUB-IDENTITY', 'a lock vanished as it was made');
      return found.createRevision;
    } catch (error) {
      if (/requested lease not found/.test(messageOf(error))) this.leases.lose();
      throw error;
    }
  }

  #labelsOf(id: number | undefined): string | undefined {
    if (id === undefined) return undefined;
    for (const [labels, used] of this.#used) if (used.known === id) return labels;
    return undefined;
  }

  #doubt(labels: string): void {
    this.#doubtful.add(labels);
    this.#wakeUp.abort();
  }

  async #assertAll(signal: AbortSignal): Promise<void> {
    let asserted = performance.now();
    while (!signal.aborted) {
      this.#wakeUp = new AbortController();
      const doubtful = [...this.#doubtful];
      this.#doubtful.clear();
      for (const labels of doubtful) {
        if (signal.aborted) return;
        await this.#assert(labels).catch((error: unknown) => {
          this.#doubtful.add(labels);
          this.#options.onProblem(`keys of identity ${shown(labels)} could not be put right: ${messageOf(error)}`);
        });
      }
      if (this.#doubtful.size > 0) await sleep(1000, signal);
      else await sleep(this.#timing.assertMs, AbortSignal.any([signal, this.#wakeUp.signal]));
      if (performance.now() - asserted < this.#timing.assertMs) continue;
      asserted = performance.now();
      for (const labels of this.#used.keys()) this.#doubtful.add(labels);
    }
  }

  /** Master key protection, and users whose lease was lost. */
  async #assert(labels: string): Promise<void> {
    const used = this.#used.get(labels);
    const number = used?.known;
    if (used === undefined && this.mirror.users(labels).has(this.#options.suffix)) await this.#removeUser(labels);
    if (used === undefined || number === undefined || !this.mirror.listed) return;
    const master = this.mirror.master(number);
    const key = masterKey(number);
    if (master?.labels !== labels) {
      const when: Condition = master === undefined ? { key, createRevision: 0 } : { key, modRevision: master.revision };
      const { succeeded } = await this.#options.transact({ when: [when], perform: [{ put: key, value: labels }] });
      if (succeeded)
        this.#options.onProblem(
          `identity ${number} was ${master === undefined ? 'removed' : 'changed'} by someone else, and is restored`,
        );
    }
    const user = this.mirror.users(labels).get(this.#options.suffix);
    if (user === number && used.slot?.lease.lost !== true) return;
    const slot = await this.leases.user();
    try {
      const value = String(number);
      await this.#options.transact({
        perform: [{ put: userKey(labels, this.#options.suffix), value, lease: slot.id }],
      });
    } catch (error) {
      slot.count--;
      if (/requested lease not found/.test(messageOf(error))) this.leases.lose(slot);
      throw error;
    }
    if (used.slot !== undefined) used.slot.count--;
    used.slot = slot;
  }
}

/** What is done with the master. */
type Make = 'nothing' | 'again' | 'new';

/** A lock that is ours. */
export interface Held {
  /** Whether it still is. */
  check(): Promise<boolean>;
  /** One transaction under the lock, which ends it; false when it was not done, with the lock still there. */
  finish(transaction: Pick<Transaction, 'when' | 'perform'>): Promise<boolean>;
}

function checked(set: LabelSet): string {
  const labels = encodeLabels(set);
  const wrong = set.find(
    ({ source, key, value }) => source === '' || /[;:]/.test(source) || /[;=]/.test(key) || /;/.test(value),
  );
  if (wrong !== undefined) throw new MeshError('HUB-IDENTITY', `label ${JSON.stringify(wrong.text)} cannot be written`);
  if (labels.length > MAX_LABEL_BYTES)
    throw new MeshError('HUB-IDENTITY', `labels of ${labels.length} bytes are too long`);
  return labels;
}

function shown(labels: string): string {
  return labels.length > 120 ? `${labels.slice(0, 120)}…` : labels;
}
