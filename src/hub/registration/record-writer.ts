import { messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { Operation, Transaction, TransactionResult } from '../../kvstore/transaction.ts';
import { REGISTRATIONS_PREFIX } from './machine-record.ts';

export interface RecordWriterOptions {
  /** The leader's: writes nothing when its term is over. */
  readonly transact: (transaction: Transaction) => Promise<TransactionResult>;
  readonly onProblem: (message: string) => void;
}

const COLLECT_MS = 100;
const RETRY_MS = 2000;
const AT_ONCE = 100;

/** Writes records in the background, many in one transaction; of several for one machine the last. */
export class RecordWriter {
  readonly #options: RecordWriterOptions;
  readonly #jobs = new JobGroup((_name, error) => this.#options.onProblem(messageOf(error)));
  /** Undefined: to be removed. */
  readonly #waiting = new Map<string, string | undefined>();
  #wakeUp = new AbortController();

  constructor(options: RecordWriterOptions) {
    this.#options = options;
    this.#jobs.start('records of machines', (signal) => this.#run(signal));
  }

  get pending(): number {
    return this.#waiting.size;
  }

  write(name: string, value: string | undefined): void {
    this.#waiting.set(name, value);
    this.#wakeUp.abort();
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
    const some = [...this.#waiting].slice(0, AT_ONCE);
    const perform = some.map(([name, value]): Operation => {
      const key = REGISTRATIONS_PREFIX + name;
      return value === undefined ? { remove: key } : { put: key, value };
    });
    await this.#options.transact({ perform });
    for (const [name, value] of some) if (this.#waiting.get(name) === value) this.#waiting.delete(name);
  }
}
