import type { CheckGroup, CheckRecord } from '../api/doctor-types.ts';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../core/errors.ts';

/** One thing to look at. `look` may take its time, and may throw: whoever runs it sets the limits. */
export interface Check {
  readonly group: CheckGroup;
  /** Name of the check, the same whatever it finds. */
  readonly name: string;
  /** For the line of progress: what is looked at now. */
  readonly title: string;
  look(signal: AbortSignal): Promise<readonly CheckRecord[]> | readonly CheckRecord[];
}

export interface Details {
  readonly subject?: string;
  readonly place?: string;
  /** More exact than that of the code. */
  readonly remedy?: string;
}

/** Makes the records of one check. */
export class Findings {
  readonly #group: CheckGroup;
  readonly #check: string;
  readonly list: CheckRecord[] = [];

  constructor(check: Pick<Check, 'group' | 'name'>) {
    this.#group = check.group;
    this.#check = check.name;
  }

  ok(text: string, details: Details = {}): void {
    this.#add('ok', text, details);
  }

  skipped(text: string, details: Details = {}): void {
    this.#add('skipped', text, details);
  }

  warning(code: ErrorCode, text: string, details: Details = {}): void {
    this.#add('warning', text, { ...details, code });
  }

  error(code: ErrorCode, text: string, details: Details = {}): void {
    this.#add('error', text, { ...details, code });
  }

  /** What was thrown, with its own code if it has one. */
  thrown(error: unknown, otherwise: ErrorCode, details: Details = {}): void {
    const known = error instanceof MeshError ? error : undefined;
    const place = details.place ?? known?.place;
    this.error(known?.code ?? otherwise, messageOf(error), { ...details, ...(place !== undefined && { place }) });
  }

  #add(verdict: CheckRecord['verdict'], text: string, { code, ...details }: Details & { code?: ErrorCode }): void {
    const { subject = '', place, remedy = code === undefined ? undefined : ERROR_CODES[code].remedy } = details;
    this.list.push({
      group: this.#group,
      check: this.#check,
      subject,
      verdict,
      ...(code !== undefined && { code }),
      text,
      ...(place !== undefined && { place }),
      ...(remedy !== undefined && { remedy }),
    });
  }
}
