import { Backoff } from '../core/backoff.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { JobGroup, sleep } from '../core/job.ts';
import type { Connection } from '../kvstore/connection.ts';
import { Lease } from '../kvstore/lease.ts';
import type { PrefixWatch } from '../kvstore/store.ts';
import type { Condition, StoredKeyValue, Transaction, TransactionResult } from '../kvstore/transaction.ts';
import type { HubStore } from './hub-store.ts';

/** One term of a leader. */
export interface Leadership {
  /** Create revision of the leader's key: it grows from term to term and names this one. */
  readonly term: number;
  /** Aborts when the term is over. */
  readonly signal: AbortSignal;
  /** True in every transaction as long as this term lasts, whatever this process believes. */
  readonly conditions: readonly Condition[];
  /**
   * A transaction that is done only while this term lasts. `succeeded` speaks of the transaction's own conditions.
   * @throws MeshError HUB-NOT-LEADER when the term is over: nothing was done; KVS-* as `WriterStore.transact`
   */
  transact(transaction: Transaction): Promise<TransactionResult>;
  /** Gives up the term: another write was refused by `conditions`. */
  resign(reason: string): void;
}

export interface ElectionOptions {
  readonly store: HubStore;
  /** Names this hub, unlike any other process. */
  readonly id: string;
  /** A term has begun. It ends when the returned promise has settled after `signal` was aborted. */
  readonly lead: (leader: Leadership) => Promise<void>;
  readonly onChange: () => void;
  readonly onProblem: (message: string, error: unknown) => void;
  readonly ttlSeconds?: number;
  /** No other hub is on this store: whoever leads there is an earlier process of this one, and is not waited for. */
  readonly alone?: boolean;
}

export interface Leader {
  readonly id: string;
  readonly since: number;
}

export const LEADER_KEY = 'mesh-agent/v1/leader';
const TTL_SECONDS = 10;

/**
 * Who leads, by a key under a lease. There is one leader at a time for everyone who looks at the store; a process that was
 * stopped may believe for a while that it still leads, so what a leader writes carries the create revision of the key
 * (a fencing token) as a condition. A hub that cannot reach the store keeps its term until the store says otherwise: it
 * can write nothing, and nothing has to be built anew when the store is back in time.
 */
export class Election {
  readonly #options: ElectionOptions;
  readonly #jobs: JobGroup;
  readonly #watch: PrefixWatch;
  readonly #unfollow: () => void;
  #connection: Connection | undefined;
  #lease: Lease | undefined;
  #term: { readonly leadership: Leadership; readonly abort: AbortController } | undefined;
  #leader: Leader | undefined;
  #wakeUp = new AbortController();

  constructor(options: ElectionOptions) {
    this.#options = options;
    this.#jobs = new JobGroup((name, error) => options.onProblem(`${name} ended`, error));
    this.#watch = options.store.watchKey(LEADER_KEY, this.#sink());
    this.#unfollow = options.store.session.follow({
      connect: (connection) => {
        this.#connection = connection;
        this.#lease?.connect(connection, this.#jobs);
        this.#wake();
      },
      disconnect: () => {
        this.#connection = undefined;
        this.#lease?.disconnect();
      },
      forget: () => {
        this.#lease?.disconnect();
        this.#lease = undefined;
        this.#end('the data of the store are others now');
      },
    });
    this.#jobs.start('election', (signal) => this.#run(signal));
  }

  /** Who leads at present, as far as this hub knows. */
  get leader(): Leader | undefined {
    return this.#leader;
  }

  get leading(): boolean {
    return this.#term !== undefined;
  }

  /** Ends the term, and lets another hub lead at once. */
  async stop(): Promise<void> {
    this.#watch.close();
    this.#end('this hub stops');
    this.#wake();
    const [lease, connection] = [this.#lease, this.#connection];
    await this.#jobs.stop();
    this.#unfollow();
    if (lease !== undefined && connection !== undefined) await lease.revoke(connection);
  }

  #sink() {
    let present = false;
    return {
      listing: () => {
        present = false;
      },
      put: (_key: string, value: Buffer) => {
        present = true;
        this.#leader = readLeader(value);
        this.#wake();
        this.#options.onChange();
      },
      remove: () => {
        this.#leader = undefined;
        this.#wake();
        this.#options.onChange();
      },
      listed: () => {
        if (!present) this.#leader = undefined;
        this.#wake();
      },
    };
  }

  #wake(): void {
    this.#wakeUp.abort();
  }

  #end(reason: string): void {
    const term = this.#term;
    if (term === undefined) return;
    this.#term = undefined;
    term.abort.abort(new MeshError('HUB-NOT-LEADER', reason));
    this.#options.onChange();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: 100, maxMs: 2000 });
    while (!signal.aborted) {
      this.#wakeUp = new AbortController();
      const connection = this.#connection;
      try {
        const term = connection === undefined ? undefined : await this.#campaign(connection);
        backoff.reset();
        if (term !== undefined && !signal.aborted) await this.#serve(term);
        else await sleep(TTL_SECONDS * 1000, AbortSignal.any([signal, this.#wakeUp.signal]));
      } catch (error) {
        this.#options.onProblem('the election failed', error);
      }
      await sleep(backoff.next(), signal);
    }
    this.#end('this hub stops');
  }

  /** The key, if this hub could make it. */
  async #campaign(connection: Connection): Promise<StoredKeyValue | undefined> {
    const { store, id, ttlSeconds = TTL_SECONDS, alone = false } = this.#options;
    const found = await store.read(LEADER_KEY);
    if (found !== undefined && found.lease !== this.#lease?.id.toString(16)) {
      if (!alone) return undefined;
      const when = [{ key: LEADER_KEY, createRevision: found.createRevision }];
      await store.transact({ when, perform: [{ remove: LEADER_KEY }] });
    }
    // Of a term before: whatever was written under it ends with it.
    if (this.#lease !== undefined) await this.#lease.revoke(connection);
    const lease = await Lease.grant(connection, ttlSeconds, (lost) => {
      if (this.#lease !== lost) return;
      this.#lease = undefined;
      this.#end('its lease ran out');
    });
    this.#lease = lease;
    if (this.#connection !== connection) return undefined;
    lease.connect(connection, this.#jobs);
    const value = JSON.stringify({ id, since: Date.now() });
    const result = await store.transact({
      when: [{ key: LEADER_KEY, createRevision: 0 }],
      perform: [{ put: LEADER_KEY, value, lease: lease.id.toString(16) }, { get: LEADER_KEY }],
    });
    return result.answers[1]?.found[0];
  }

  /** Leads until the term is over. */
  async #serve(key: StoredKeyValue): Promise<void> {
    const abort = new AbortController();
    const conditions: readonly Condition[] = [{ key: LEADER_KEY, createRevision: key.createRevision }];
    const resign = (reason: string): void => {
      if (this.#term?.leadership === leadership) this.#end(reason);
    };
    const transact = (transaction: Transaction): Promise<TransactionResult> =>
      guarded({ store: this.#options.store, conditions, transaction, resign });
    const leadership: Leadership = { term: key.createRevision, signal: abort.signal, conditions, transact, resign };
    this.#term = { leadership, abort };
    if (this.#lease === undefined || this.#lease.lost) this.#end('its lease ran out');
    this.#options.onChange();
    const over = new Promise((resolve) => abort.signal.addEventListener('abort', resolve, { once: true }));
    const watching = this.#watchTerm(key.createRevision, resign);
    try {
      await Promise.all([this.#options.lead(leadership), abort.signal.aborted ? undefined : over]);
    } catch (error) {
      this.#options.onProblem('the term of this hub ended early', error);
      resign(messageOf(error));
    } finally {
      watching.close();
    }
  }

  /** The key of another term, or none, ends this one. */
  #watchTerm(term: number, resign: (reason: string) => void): PrefixWatch {
    const check = async (): Promise<void> => {
      const found = await this.#options.store.read(LEADER_KEY);
      if (found?.createRevision !== term) resign('another hub leads');
    };
    const look = (): void => {
      // What cannot be read now is told by the next event or by a refused write.
      check().catch(() => {});
    };
    return this.#options.store.watchKey(LEADER_KEY, { listing() {}, put: look, remove: look, listed: look });
  }
}

/** The transaction within one that asks for the term alone: so the two kinds of refusal are told apart. */
async function guarded(call: {
  readonly store: HubStore;
  readonly conditions: readonly Condition[];
  readonly transaction: Transaction;
  readonly resign: (reason: string) => void;
}): Promise<TransactionResult> {
  const { store, conditions, transaction } = call;
  const { succeeded, revision, answers } = await store.transact({ when: conditions, perform: [{ transaction }] });
  const within = answers[0]?.result;
  if (succeeded && within !== undefined) return { ...within, revision };
  call.resign('another hub leads');
  throw new MeshError('HUB-NOT-LEADER', '');
}

function readLeader(value: Buffer): Leader | undefined {
  try {
    const { id, since } = JSON.parse(value.toString('utf8')) as { id?: unknown; since?: unknown };
    if (typeof id === 'string' && typeof since === 'number') return { id, since };
  } catch {
    // Somebody else's value: there is a leader whose name is not known.
  }
  return { id: 'unknown', since: 0 };
}
