/**
 * Background work with a name and an end: never a loose promise. A job group belongs to the component that opened it;
 * `stop` aborts all jobs and resolves when the last one has returned.
 */
export class JobGroup {
  readonly #abort = new AbortController();
  readonly #running = new Set<Promise<void>>();
  readonly #onFailure: (name: string, error: unknown) => void;

  constructor(onFailure: (name: string, error: unknown) => void) {
    this.#onFailure = onFailure;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  start(name: string, work: (signal: AbortSignal) => Promise<void>): void {
    if (this.signal.aborted) return;
    const job = work(this.signal)
      .catch((error: unknown) => {
        if (!this.signal.aborted) this.#onFailure(name, error);
      })
      .finally(() => this.#running.delete(job));
    this.#running.add(job);
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await Promise.all(this.#running);
  }
}

/** Resolves after the delay, or early when the signal aborts; it does not keep the process alive by itself. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
