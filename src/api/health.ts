import { ERROR_CODES, type ErrorCode, type MeshError } from '../core/errors.ts';
import type { Log } from '../observe/log.ts';
import type { HealthRecord } from './types.ts';

export interface Trouble {
  readonly code: ErrorCode;
  readonly text: string;
  readonly place?: string | undefined;
  readonly severity?: HealthRecord['severity'];
}

/** `changed`: the same trouble, told in other words. */
export type HealthChange = 'begun' | 'changed' | 'over';

/**
 * What is wrong at present, one record for each subject and code. Whoever finds a trouble sets it, and clears it when it
 * is over; `status`, metrics and the exit code all read from here.
 */
export class Health {
  readonly #subjects = new Map<string, Map<ErrorCode, HealthRecord>>();
  readonly #onChange: (record: HealthRecord, change: HealthChange) => void;

  constructor(onChange: (record: HealthRecord, change: HealthChange) => void) {
    this.#onChange = onChange;
  }

  set(subject: string, trouble: Trouble): void {
    this.#put(subject, trouble, this.#subjects.get(subject)?.get(trouble.code));
  }

  fail(subject: string, error: MeshError): void {
    this.set(subject, { code: error.code, text: error.message, place: error.place });
  }

  /** The trouble is over; every trouble of the subject without a code. */
  clear(subject: string, code?: ErrorCode): void {
    for (const record of this.of(subject)) if (code === undefined || record.code === code) this.#remove(record);
  }

  /** Sets or clears, as the condition says. */
  check(subject: string, code: ErrorCode, trouble: Omit<Trouble, 'code'> | undefined): void {
    if (trouble === undefined) this.clear(subject, code);
    else this.set(subject, { code, ...trouble });
  }

  /**
   * Of the codes that begin so (`KVS-`) the subject has this trouble and no other, or none: a store that is refused by one
   * endpoint and silent on another has one trouble that lasts, not two that take turns.
   */
  settle(subject: string, codes: string, trouble: Trouble | undefined): void {
    const [before, ...rest] = this.of(subject).filter(({ code }) => code.startsWith(codes));
    for (const record of rest) this.#remove(record);
    if (trouble !== undefined) this.#put(subject, trouble, before);
    else if (before !== undefined) this.#remove(before);
  }

  /** The troubles of one subject. */
  of(subject: string): HealthRecord[] {
    return [...(this.#subjects.get(subject)?.values() ?? [])];
  }

  /** Subjects that have a trouble. */
  subjects(): string[] {
    return [...this.#subjects.keys()];
  }

  /** Errors first, then the oldest. */
  list(): HealthRecord[] {
    const all = [...this.#subjects.values()].flatMap((records) => [...records.values()]);
    return all.sort((a, b) => a.severity.localeCompare(b.severity) || a.since - b.since);
  }

  #put(subject: string, trouble: Trouble, before: HealthRecord | undefined): void {
    const { code, text, place, severity = 'error' } = trouble;
    const same = before?.code === code && before.text === text && before.place === place;
    if (same && before.severity === severity) return;
    const record: HealthRecord = {
      code,
      severity,
      subject,
      text,
      ...(place !== undefined && { place }),
      remedy: ERROR_CODES[code].remedy,
      since: before?.since ?? Date.now(),
    };
    if (before !== undefined && before.code !== code) this.#subjects.get(subject)?.delete(before.code);
    const records = this.#subjects.get(subject) ?? new Map<ErrorCode, HealthRecord>();
    this.#subjects.set(subject, records.set(code, record));
    this.#onChange(record, before === undefined ? 'begun' : 'changed');
  }

  #remove(record: HealthRecord): void {
    const records = this.#subjects.get(record.subject);
    records?.delete(record.code);
    if (records?.size === 0) this.#subjects.delete(record.subject);
    this.#onChange(record, 'over');
  }
}

/** One line when a trouble begins and one when it is over; what changes meanwhile is for `status`, and for debugging. */
export function logTrouble(log: Log, record: HealthRecord, change: HealthChange): void {
  const { code, subject, severity, text, place, remedy } = record;
  const facts = { code, subject, ...(place !== undefined && { place }), remedy };
  if (change === 'over') log.info(`over: ${text}`, { code, subject });
  else if (change === 'changed') log.debug(text, facts);
  else if (severity === 'error') log.error(text, facts);
  else log.warn(text, facts);
}
