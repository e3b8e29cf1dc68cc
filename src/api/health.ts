import { ERROR_CODES, type ErrorCode, type MeshError } from '../core/errors.ts';
import type { HealthRecord } from './types.ts';

export interface Trouble {
  readonly code: ErrorCode;
  readonly text: string;
  readonly place?: string | undefined;
  readonly severity?: HealthRecord['severity'];
}

/**
 * What is wrong at present, one record for each subject and code. Whoever finds a trouble sets it, and clears it when it
 * is over; `status`, metrics and the exit code all read from here.
 */
export class Health {
  readonly #records = new Map<string, HealthRecord>();
  readonly #onChange: (record: HealthRecord, over: boolean) => void;

  constructor(onChange: (record: HealthRecord, over: boolean) => void) {
    this.#onChange = onChange;
  }

  set(subject: string, trouble: Trouble): void {
    const key = `${subject} ${trouble.code}`;
    const before = this.#records.get(key);
    if (before?.text === trouble.text && before.place === trouble.place) return;
    const record: HealthRecord = {
      code: trouble.code,
      severity: trouble.severity ?? 'error',
      subject,
      text: trouble.text,
      ...(trouble.place !== undefined && { place: trouble.place }),
      remedy: ERROR_CODES[trouble.code].remedy,
      since: before?.since ?? Date.now(),
    };
    this.#records.set(key, record);
    this.#onChange(record, false);
  }

  fail(subject: string, error: MeshError): void {
    this.set(subject, { code: error.code, text: error.message, place: error.place });
  }

  /** The trouble is over; every trouble of the subject without a code. */
  clear(subject: string, code?: ErrorCode): void {
    for (const [key, record] of this.#records) {
      if (record.subject !== subject || (code !== undefined && record.code !== code)) continue;
      this.#records.delete(key);
      this.#onChange(record, true);
    }
  }

  /** Sets or clears, as the condition says. */
  check(subject: string, code: ErrorCode, trouble: Omit<Trouble, 'code'> | undefined): void {
    if (trouble === undefined) this.clear(subject, code);
    else this.set(subject, { code, ...trouble });
  }

  /** Errors first, then the oldest. */
  list(): HealthRecord[] {
    return [...this.#records.values()].sort((a, b) => a.severity.localeCompare(b.severity) || a.since - b.since);
  }
}
