/** One line that may be said again and again. */
export interface RepeatedLine {
  /** What makes two lines the same. */
  readonly key: string;
  /** Says that it came so many times more, within so long. */
  readonly summary: (count: number, withinMs: number) => void;
}

interface Seen {
  windowMs: number;
  windowFrom: number;
  /** Lines that were written, and that were not, in this window. */
  written: number;
  held: number;
  line: RepeatedLine;
  cancel: (() => void) | undefined;
}

export interface RepeatsClock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Does not keep the process alive. @returns takes it back */
  later(work: () => void, ms: number): () => void;
}

const CLOCK: RepeatsClock = {
  now: () => performance.now(),
  later(work, ms) {
    const timer = setTimeout(work, ms).unref();
    return () => clearTimeout(timer);
  },
};

/** A line and its repetition: something that happens twice is no storm yet. */
const BURST = 2;
const FIRST_WINDOW_MS = 60_000;
const LAST_WINDOW_MS = 3_600_000;
/** So many different lines are remembered, the oldest is forgotten. */
const MAX_SEEN = 1000;

/**
 * Keeps a line that repeats from filling the log: twice it is written, then summed up after a minute, two, four, up to an
 * hour, as long as it goes on. After a whole quiet window it is news again.
 */
export class Repeats {
  readonly #seen = new Map<string, Seen>();
  readonly #clock: RepeatsClock;

  constructor(clock: RepeatsClock = CLOCK) {
    this.#clock = clock;
  }

  /** Whether the line is to be written now. */
  admit(line: RepeatedLine): boolean {
    const now = this.#clock.now();
    const seen = this.#seen.get(line.key);
    if (seen === undefined || (seen.cancel === undefined && now - seen.windowFrom >= seen.windowMs)) {
      this.#begin(line, now);
      return true;
    }
    seen.line = line;
    if (seen.written < BURST) {
      seen.written++;
      return true;
    }
    seen.held++;
    seen.cancel ??= this.#clock.later(() => this.#sumUp(seen), seen.windowFrom + seen.windowMs - now);
    return false;
  }

  /** Says what was held back, at once. */
  close(): void {
    for (const seen of this.#seen.values()) {
      seen.cancel?.();
      this.#say(seen);
    }
    this.#seen.clear();
  }

  #begin(line: RepeatedLine, now: number): void {
    const [oldest] = this.#seen.keys();
    if (this.#seen.size >= MAX_SEEN && oldest !== undefined) {
      const forgotten = this.#seen.get(oldest);
      forgotten?.cancel?.();
      if (forgotten !== undefined) this.#say(forgotten);
      this.#seen.delete(oldest);
    }
    // At the end of the line: the oldest comes first.
    this.#seen.delete(line.key);
    const seen = { windowMs: FIRST_WINDOW_MS, windowFrom: now, written: 1, held: 0, line, cancel: undefined };
    this.#seen.set(line.key, seen);
  }

  #sumUp(seen: Seen): void {
    seen.cancel = undefined;
    this.#say(seen);
    seen.windowFrom = this.#clock.now();
    seen.windowMs = Math.min(LAST_WINDOW_MS, seen.windowMs * 2);
    // What goes on is summed up, not written again.
    seen.written = BURST;
  }

  #say(seen: Seen): void {
    const { held } = seen;
    seen.held = 0;
    if (held > 0) seen.line.summary(held, this.#clock.now() - seen.windowFrom);
  }
}
