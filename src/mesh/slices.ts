/** The event loop is given back after so long, milliseconds. */
const SLICE_MS = 8;

interface Work {
  readonly steps: Iterator<void>;
  readonly done: () => void;
}

/**
 * Long work over the big tables, piece by piece, one after the other: a generator yields where it may be interrupted. Work
 * that fits in one slice is done when `run` returns, if nothing waits before it.
 */
export class Slices {
  readonly #queue: Work[] = [];
  #running = false;

  /** `done` is called when the last step is over. */
  run(steps: Iterator<void>, done: () => void = () => {}): void {
    this.#queue.push({ steps, done });
    if (!this.#running) this.#slice();
  }

  #slice(): void {
    this.#running = true;
    const end = performance.now() + SLICE_MS;
    for (let work = this.#queue[0]; work !== undefined; work = this.#queue[0]) {
      if (performance.now() >= end) {
        setImmediate(() => this.#slice());
        return;
      }
      if (work.steps.next().done !== true) continue;
      this.#queue.shift();
      work.done();
    }
    this.#running = false;
  }
}

/** Does the work at once. */
export function exhaust(steps: Iterator<void>): void {
  while (steps.next().done !== true);
}
