import { TokenBucket } from '../../core/token-bucket.ts';

/** Something that became of a registration. */
export interface RegistrationEvent {
  readonly event: 'registered' | 'registration-refused' | 'registration-ended' | 'withdrawn';
  readonly reason: string;
  /** The lease that the machine registered under, hexadecimal. */
  readonly session?: string;
}

export interface DiaryEntry extends RegistrationEvent {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** So many before it were left out. */
  readonly suppressed: number;
}

const BURST = 20;
const PER_SECOND = 1 / 60;

/** What goes on record of one machine: not all of it, when it comes, goes and claims something else again and again. */
export class Diary {
  readonly #bucket = new TokenBucket({ burst: BURST, perSecond: PER_SECOND });
  #entries: DiaryEntry[] = [];
  #suppressed = 0;

  /** Whether it is put on record. */
  add(event: RegistrationEvent): boolean {
    if (!this.#bucket.take()) {
      this.#suppressed++;
      return false;
    }
    this.#entries.push({ ...event, at: Date.now(), suppressed: this.#suppressed });
    this.#suppressed = 0;
    return true;
  }

  /** What came since it was last asked. */
  take(): readonly DiaryEntry[] {
    const entries = this.#entries;
    this.#entries = [];
    return entries;
  }
}
