import type { FlowRecord } from '../../api/flow-types.ts';

/** The newest flows, by their numbers. Readers keep a number of their own: who is too slow finds that its place is gone. */
export class FlowRing {
  readonly #flows: (FlowRecord | undefined)[];
  readonly #waiting = new Set<() => void>();
  #next = 0;

  constructor(size: number) {
    this.#flows = new Array(size).fill(undefined);
  }

  /** Number of the flow that comes next. */
  get next(): number {
    return this.#next;
  }

  /** Number of the oldest one that is still there. */
  get oldest(): number {
    return Math.max(0, this.#next - this.#flows.length);
  }

  at(number: number): FlowRecord | undefined {
    return number < this.oldest || number >= this.#next ? undefined : this.#flows[number % this.#flows.length];
  }

  push(flow: FlowRecord): void {
    this.#flows[this.#next % this.#flows.length] = flow;
    this.#next++;
    if (this.#waiting.size === 0) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of waiting) wake();
  }

  /** Until a flow comes, the time is over or the signal says so. */
  wait(ms: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      signal.addEventListener('abort', wake, { once: true });
      this.#waiting.add(wake);
    });
  }
}
