import { Backoff } from '../../core/backoff.ts';
import { JobGroup } from '../../core/job.ts';

export interface WorkQueueOptions {
  readonly workers: number;
  /** What it throws is told, and the key tried again later. */
  work(key: string): Promise<void>;
  onFailure(key: string, error: unknown): void;
  readonly retryMinMs?: number;
  readonly retryMaxMs?: number;
}

/**
 * Keys to be worked at, each by one worker at a time and once for all that happened to it meanwhile. Work is for the
 * present facts of a key, never for an event.
 */
export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #jobs: JobGroup;
  readonly #waiting = new Set<string>();
  readonly #working = new Set<string>();
  readonly #again = new Set<string>();
  readonly #later = new Map<string, { readonly at: number; readonly timer: NodeJS.Timeout }>();
  readonly #backoffs = new Map<string, Backoff>();
  readonly #idle = new Set<() => void>();
  #started = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
    this.#jobs = new JobGroup((name, error) => options.onFailure(name, error));
  }

  /** Keys that wait, are worked at, or failed last. */
  get pending(): number {
    return this.#waiting.size + this.#working.size + this.#backoffs.size;
  }

  start(): void {
    this.#started = true;
    this.#pump();
  }

  add(key: string): void {
    this.#clearLater(key);
    if (this.#working.has(key)) this.#again.add(key);
    else this.#waiting.add(key);
    this.#pump();
  }

  /** In so many milliseconds, unless it is added or due before. */
  addLater(key: string, ms: number): void {
    const at = performance.now() + ms;
    if ((this.#later.get(key)?.at ?? Number.POSITIVE_INFINITY) <= at) return;
    this.#clearLater(key);
    this.#later.set(key, { at, timer: setTimeout(() => this.add(key), ms).unref() });
  }

  /** Resolves when nothing waits, is worked at, or has to be tried again. */
  drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle.add(resolve);
      this.#tellIdle();
    });
  }

  async stop(): Promise<void> {
    this.#started = false;
    for (const key of [...this.#later.keys()]) this.#clearLater(key);
    await this.#jobs.stop();
  }

  #clearLater(key: string): void {
    clearTimeout(this.#later.get(key)?.timer);
    this.#later.delete(key);
  }

  #pump(): void {
    if (!this.#started) return;
    for (const key of this.#waiting) {
      if (this.#working.size >= this.#options.workers) return;
      this.#waiting.delete(key);
      this.#working.add(key);
      this.#jobs.start(key, async () => {
        await this.#work(key);
        this.#working.delete(key);
        if (this.#again.delete(key)) this.#waiting.add(key);
        this.#pump();
        this.#tellIdle();
      });
    }
  }

  async #work(key: string): Promise<void> {
    try {
      await this.#options.work(key);
      this.#backoffs.delete(key);
    } catch (error) {
      if (this.#jobs.signal.aborted) return;
      this.#options.onFailure(key, error);
      const { retryMinMs: minMs = 200, retryMaxMs: maxMs = 15_000 } = this.#options;
      const backoff = this.#backoffs.get(key) ?? new Backoff({ minMs, maxMs });
      this.#backoffs.set(key, backoff);
      this.addLater(key, backoff.next());
    }
  }

  #tellIdle(): void {
    if (this.pending > 0) return;
    for (const resolve of this.#idle) resolve();
    this.#idle.clear();
  }
}
