import type { CheckReport } from '../../kvstore/codec/serving-report.ts';

export interface ThresholdOptions {
  /** Successes in a row that make it healthy, and failures that make it unhealthy. */
  readonly rise: number;
  readonly fall: number;
  /** What counted before. */
  readonly known: CheckReport | undefined;
  /** What is looked at is another now: the first result counts at once. */
  readonly other: boolean;
}

/** Results of checks, and what counts of them. */
export class Thresholds {
  readonly #rise: number;
  readonly #fall: number;
  #report: CheckReport | undefined;
  #first: boolean;
  /** Results in a row that say the contrary of what counts. */
  #contrary = 0;

  constructor({ rise, fall, known, other }: ThresholdOptions) {
    this.#rise = rise;
    this.#fall = fall;
    this.#report = known;
    this.#first = other || known === undefined;
  }

  get report(): CheckReport | undefined {
    return this.#report;
  }

  /** One more result, undefined for a success. @returns whether what counts is another */
  take(reason: string | undefined, now: number): boolean {
    const healthy = reason === undefined;
    const before = this.#report;
    const first = this.#first;
    this.#first = false;
    if (before !== undefined && before.healthy === healthy) {
      this.#contrary = 0;
      if (reason === undefined || reason === before.reason) return false;
      // It fails in another way: since when it fails stays.
      this.#report = { ...before, reason };
      return true;
    }
    if (!first && ++this.#contrary < (healthy ? this.#rise : this.#fall)) return false;
    this.#contrary = 0;
    this.#report = { healthy, since: now, reason: reason ?? '' };
    return true;
  }
}
