import { setImmediate as nextTurn } from 'node:timers/promises';

const TURN_MS = 8;
const EVERY = 64;

/** Tells a long loop when to let the event loop have its turn. */
export class Pacer {
  #count = 0;
  #since = performance.now();

  /** Cheap enough for every item: the clock is read once in a while. */
  get due(): boolean {
    return ++this.#count % EVERY === 0 && performance.now() - this.#since > TURN_MS;
  }

  rested(): void {
    this.#since = performance.now();
  }

  async pause(): Promise<void> {
    await nextTurn();
    this.rested();
  }
}
