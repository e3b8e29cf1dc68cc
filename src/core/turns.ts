/** The event loop is given back after so much long work in one turn, milliseconds. */
const SLICE_MS = 8;

/**
 * Long work that is done in pieces shares each turn of the event loop: however many do such work at once (the lists and
 * watches of fifty clusters), together they hold it for one slice, and then everything else gets its turn.
 *
 *     if (turns.over) await turns.next();
 */
export class Turns {
  readonly #waiting: (() => void)[] = [];
  /** When the slice of this turn ends; zero as long as nobody has used it. */
  #end = 0;

  /** Whether the slice of this turn is used up: whoever works in pieces has to wait for the next. */
  get over(): boolean {
    const now = performance.now();
    if (this.#end > 0) return now >= this.#end;
    this.#end = now + SLICE_MS;
    setImmediate(() => this.#begin());
    return false;
  }

  /** Resolves in a later turn, which it has for itself at first: one turn for each who waits, first come, first served. */
  next(): Promise<void> {
    return new Promise((resolve) => this.call(resolve));
  }

  /** The same with a callback. */
  call(work: () => void): void {
    this.#waiting.push(work);
    // Whoever waits without having asked waits no longer than others.
    void this.over;
  }

  #begin(): void {
    this.#end = 0;
    const first = this.#waiting.shift();
    if (first === undefined) return;
    // The turn begins with it, and leads to the next one.
    void this.over;
    first();
  }
}

/** Those of the event loop of this process. */
export const turns = new Turns();
