export interface BucketOptions {
  readonly burst: number;
  readonly perSecond: number;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

/** So many at once, and so many per second in the long run. */
export class TokenBucket {
  readonly #options: BucketOptions;
  #level: number;
  #at: number;

  constructor(options: BucketOptions) {
    this.#options = options;
    this.#level = options.burst;
    this.#at = this.#now();
  }

  /** Whether one more may pass. */
  take(): boolean {
    this.#refill();
    if (this.#level < 1) return false;
    this.#level--;
    return true;
  }

  /** Takes so many whether they are there or not: nobody passes until what was too much has come in again. */
  spend(count: number): void {
    this.#refill();
    this.#level -= count;
  }

  /** Whether none could pass; takes none. */
  get empty(): boolean {
    this.#refill();
    return this.#level < 1;
  }

  /** Whether nothing is taken that has not come in again. */
  get full(): boolean {
    this.#refill();
    return this.#level >= this.#options.burst;
  }

  #refill(): void {
    const { burst, perSecond } = this.#options;
    const now = this.#now();
    this.#level = Math.min(burst, this.#level + ((now - this.#at) / 1000) * perSecond);
    this.#at = now;
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now();
  }
}
