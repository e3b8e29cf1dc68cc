export interface RequestLimits {
  /** Requests on their way at once. */
  readonly inFlight: number;
  /** Requests in a second, as of now; as many may come at once after a pause. */
  readonly rate: () => number;
}

/**
 * Lets requests through in the order in which they ask: no more at once, and no more in a second, than is good for the store.
 * Those who wait for each answer before they ask for the next take turns here, so that a busy one holds up no other.
 */
export class RequestLimiter {
  readonly #limits: RequestLimits;
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #tokens = Number.POSITIVE_INFINITY;
  #filledAt = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(limits: RequestLimits) {
    this.#limits = limits;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  async run<T>(request: () => Promise<T>): Promise<T> {
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
      this.#next();
    });
    try {
      return await request();
    } finally {
      this.#running--;
      this.#next();
    }
  }

  #next(): void {
    while (this.#running < this.#limits.inFlight) {
      const rate = this.#fill();
      if (this.#waiting.length === 0) return;
      if (this.#tokens < 1) {
        this.#later(((1 - this.#tokens) * 1000) / rate);
        return;
      }
      this.#tokens--;
      this.#running++;
      this.#waiting.shift()?.();
    }
  }

  #fill(): number {
    const rate = this.#limits.rate();
    const now = performance.now();
    this.#tokens = Math.min(rate, this.#tokens + ((now - this.#filledAt) * rate) / 1000);
    this.#filledAt = now;
    return rate;
  }

  #later(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#next();
    }, ms + 1);
  }
}
