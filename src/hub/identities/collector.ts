import { messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { Transaction, TransactionResult } from '../../kvstore/transaction.ts';
import type { IdentityAllocator } from './allocator.ts';
import { lockKey, masterKey, quarantineKey } from './identity-keys.ts';

export interface CollectorOptions {
  readonly allocator: IdentityAllocator;
  readonly transact: (transaction: Transaction) => Promise<TransactionResult>;
  readonly onProblem: (message: string) => void;
  readonly onCollected?: (id: number, labels: string) => void;
  /** Between rounds, milliseconds; Cilium's 15 minutes by default. */
  readonly intervalMs?: number;
  /** How long a collected number is not given again; two rounds by default. */
  readonly quarantineSeconds?: number;
}

const INTERVAL_MS = 15 * 60_000;

/**
 * Takes masters away that nobody used in two rounds, and locks that somebody left behind. A collected number is not used
 * again for a while: a peer that is away has the old meaning of it in its policy maps.
 */
export class IdentityCollector {
  readonly #options: CollectorOptions;
  readonly #jobs = new JobGroup((_name, error) => this.#options.onProblem(messageOf(error)));
  #unused = new Map<number, number>();
  #locks = new Map<string, number>();
  #round = 0;
  #collected = 0;

  constructor(options: CollectorOptions) {
    this.#options = options;
  }

  get collected(): number {
    return this.#collected;
  }

  start(): void {
    this.#jobs.start('collect identities', async (signal) => {
      while (!signal.aborted) {
        await sleep(this.#options.intervalMs ?? INTERVAL_MS, signal);
        if (signal.aborted) return;
        await this.round().catch((error: unknown) =>
          this.#options.onProblem(`unused identities could not be collected: ${messageOf(error)}`),
        );
      }
    });
  }

  stop(): Promise<void> {
    return this.#jobs.stop();
  }

  /** One round. @returns how many masters were collected @throws MeshError HUB-NOT-LEADER, KVS-* */
  async round(): Promise<number> {
    const { allocator } = this.#options;
    const before = this.#unused;
    const previous = this.#round;
    this.#round = performance.now();
    const [first, last] = allocator.block;
    this.#unused = new Map();
    let lease: string | undefined;
    let count = 0;
    for (const [id, { labels, revision }] of [...allocator.mirror.masters()]) {
      if (id < first || id > last || !this.#isUnused(labels)) continue;
      this.#unused.set(id, revision);
      if (before.get(id) !== revision || !allocator.mirror.isUnusedSince(labels, previous)) continue;
      lease ??= await allocator.leases.passing(this.#quarantineSeconds());
      if (await this.#collect(id, { labels, revision, lease })) count++;
    }
    await this.#collectLocks();
    this.#collected += count;
    return count;
  }

  #quarantineSeconds(): number {
    const { quarantineSeconds, intervalMs = INTERVAL_MS } = this.#options;
    return quarantineSeconds ?? Math.ceil((2 * intervalMs) / 1000);
  }

  #isUnused(labels: string): boolean {
    const { allocator } = this.#options;
    return allocator.mirror.users(labels).size === 0 && !allocator.isUsed(labels);
  }

  async #collect(id: number, master: { labels: string; revision: number; lease: string }): Promise<boolean> {
    const { allocator, onCollected } = this.#options;
    const { labels, revision, lease } = master;
    const done = await allocator.locked(labels, async (lock) => {
      // Seen again under the lock: what was given before it is known here.
      if (!this.#isUnused(labels)) return false;
      return lock.finish({
        when: [{ key: masterKey(id), modRevision: revision }],
        perform: [{ remove: masterKey(id) }, { put: quarantineKey(id), value: labels.slice(0, 1024), lease }],
      });
    });
    this.#unused.delete(id);
    if (done) onCollected?.(id, labels);
    return done;
  }

  /** Whoever holds a lock for a whole round does not live any more, whatever its lease says. */
  async #collectLocks(): Promise<void> {
    const before = this.#locks;
    const seen: [string, number][] = [...this.#options.allocator.mirror.locks()].map(([path, holder, revision]) => [
      lockKey(path, holder),
      revision,
    ]);
    this.#locks = new Map(seen);
    for (const [key, revision] of seen)
      if (before.get(key) === revision)
        await this.#options.transact({ when: [{ key, modRevision: revision }], perform: [{ remove: key }] });
  }
}
