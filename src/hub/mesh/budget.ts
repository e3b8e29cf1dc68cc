export interface BudgetLimits {
  readonly keys: number;
  /** Of keys and values. */
  readonly bytes: number;
}

export const DEFAULT_BUDGET: BudgetLimits = { keys: 500_000, bytes: 256 << 20 };

/** How much one cluster may put into our store: a broken or hostile one must not fill it, nor our memory. */
export class Budget {
  readonly limits: BudgetLimits;
  #keys = 0;
  #bytes = 0;

  constructor(limits: BudgetLimits) {
    this.limits = limits;
  }

  get keys(): number {
    return this.#keys;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** False, and nothing changed, when there is no room for this value in the place of the one before. */
  take(key: string, before: Buffer | undefined, value: Buffer): boolean {
    const keys = this.#keys + (before === undefined ? 1 : 0);
    const bytes = this.#bytes + (before === undefined ? key.length : -before.length) + value.length;
    if (keys > this.limits.keys || bytes > this.limits.bytes) return false;
    this.#keys = keys;
    this.#bytes = bytes;
    return true;
  }

  give(key: string, value: Buffer): void {
    this.#keys--;
    this.#bytes -= key.length + value.length;
  }

  /** Whether a list that was cut could bring more now. */
  get hasRoom(): boolean {
    return this.#keys < this.limits.keys * 0.9 && this.#bytes < this.limits.bytes * 0.9;
  }
}
