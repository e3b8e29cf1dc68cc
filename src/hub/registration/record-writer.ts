import { messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { Operation, Transaction, TransactionResult } from '../../kvstore/transaction.ts';
import type { DiaryEntry } from './diary.ts';
import { REGISTRATIONS_PREFIX } from './machine-record.ts';

export interface RecordWriterOptions {
  /** The leader's: writes nothing when its term is over. */
  readonly transact: (transaction: Transaction) => Promise<TransactionResult>;
  /** The write of an entry into the audit log. */
  readonly audit: (workload: string, entry: DiaryEntry) => Promise<Operation>;
  readonly onProblem: (message: string) => void;
}

interface Waiting {
  /** Undefined: to be removed. */
  readonly value: string | undefined;
  readonly entries: readonly DiaryEntry[];
}

const COLLECT_MS = 100;
const RETRY_MS = 2000;
/** etcd takes 128 operations in a transaction unless it is told otherwise. */
const AT_ONCE = 100;
/** Of one machine, waiting: all of them go into one transaction. */
const MAX_ENTRIES = 64;

/**
 * Writes records in the background, many in one transaction; of several for one machine the last. What happened goes into the
 * audit log with the record that tells of it: whoever leads next finds both, or neither, and does it again.
 */
export class RecordWriter {
  readonly #options: RecordWriterOptions;
  readonly #jobs = new JobGroup((_name, error) => this.#options.onProblem(messageOf(error)));
  readonly #waiting = new Map<string, Waiting>();
  #wakeUp = new AbortController();

  constructor(options: RecordWriterOptions) {
    this.#options = options;
    this.#jobs.start('records of machines', (signal) => this.#run(signal));
  }

  get pending(): number {
    return this.#waiting.size;
  }

  write(name: string, value: string | undefined, entries: readonly DiaryEntry[] = []): void {
    const before = this.#waiting.get(name)?.entries ?? [];
    this.#waiting.set(name, { value, entries: [...before, ...entries].slice(-MAX_ENTRIES) });
    if (!this.#wakeUp.signal.aborted) this.#wakeUp.abort();
  }

  stop(): Promise<void> {
    return this.#jobs.stop();
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#wakeUp = new AbortController();
      if (this.#waiting.size === 0) await sleep(3_600_000, AbortSignal.any([signal, this.#wakeUp.signal]));
      await sleep(COLLECT_MS, signal);
      try {
        while (this.#waiting.size > 0 && !signal.aborted) await this.#writeSome();
      } catch (error) {
        this.#options.onProblem(`records of machines could not be written: ${messageOf(error)}`);
        await sleep(RETRY_MS, signal);
      }
    }
  }

  async #writeSome(): Promise<void> {
    const some = this.#some();
    const perform = await Promise.all(some.map((each) => this.#operations(each)));
    await this.#options.transact({ perform: perform.flat() });
    for (const [name, { value, entries }] of some) {
      const now = this.#waiting.get(name);
      const left = now?.entries.filter((entry) => !entries.includes(entry)) ?? [];
      if (now === undefined || (now.value === value && left.length === 0)) this.#waiting.delete(name);
      else this.#waiting.set(name, { value: now.value, entries: left });
    }
  }

  #some(): [string, Waiting][] {
    const some: [string, Waiting][] = [];
    let operations = 0;
    for (const each of this.#waiting) {
      operations += 1 + each[1].entries.length;
      if (some.length > 0 && operations > AT_ONCE) break;
      some.push(each);
    }
    return some;
  }

  async #operations([name, { value, entries }]: readonly [string, Waiting]): Promise<Operation[]> {
    const key = REGISTRATIONS_PREFIX + name;
    const record: Operation = value === undefined ? { remove: key } : { put: key, value };
    return [record, ...(await Promise.all(entries.map((entry) => this.#options.audit(name, entry))))];
  }
}
