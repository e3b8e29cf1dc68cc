/** Exponential backoff with full jitter, so that a fleet does not come back in step. */
export interface BackoffOptions {
  readonly minMs: number;
  readonly maxMs: number;
  readonly factor?: number;
  readonly random?: () => number;
}

export class Backoff {
  readonly #options: Required<BackoffOptions>;
  #failures = 0;

  constructor(options: BackoffOptions) {
    this.#options = { factor: 2, random: Math.random, ...options };
  }

  get failures(): number {
    return this.#failures;
  }

  /** The next delay in milliseconds: between half and all of the exponential step. */
  next(): number {
    const { minMs, maxMs, factor, random } = this.#options;
    const step = Math.min(maxMs, minMs * factor ** this.#failures++);
    return step / 2 + (random() * step) / 2;
  }

  reset(): void {
    this.#failures = 0;
  }
}
