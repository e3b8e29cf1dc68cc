export const TICK_MS = 50;
/** After a longer pause of the process, in ticks, everything that is kept is looked through instead. */
const MAX_CATCH_UP = 2000;

/** Items by the moment at which they are due, to a tick. Times are monotonic milliseconds. */
export class CheckWheel<Item> {
  readonly #ticks = new Map<number, Item[]>();
  #last: number;

  constructor(now: number) {
    this.#last = Math.floor(now / TICK_MS);
  }

  add(item: Item, at: number): void {
    // Never into the past, where nobody looks any more.
    const tick = Math.max(this.#last + 1, Math.ceil(at / TICK_MS));
    const items = this.#ticks.get(tick);
    if (items === undefined) this.#ticks.set(tick, [item]);
    else items.push(item);
  }

  /** What has become due, the earliest first. */
  take(now: number): Item[] {
    const tick = Math.floor(now / TICK_MS);
    const due: Item[] = [];
    for (const each of this.#passed(tick)) {
      due.push(...(this.#ticks.get(each) ?? []));
      this.#ticks.delete(each);
    }
    this.#last = Math.max(this.#last, tick);
    return due;
  }

  #passed(tick: number): number[] {
    if (tick - this.#last > MAX_CATCH_UP)
      return [...this.#ticks.keys()].filter((each) => each <= tick).sort((a, b) => a - b);
    return Array.from({ length: Math.max(0, tick - this.#last) }, (_, index) => this.#last + 1 + index);
  }
}

/** The next moment after `now` at which an item of this phase has its turn: each in its own part of the interval. */
export function nextTurn(now: number, { phase, intervalMs }: { phase: number; intervalMs: number }): number {
  return Math.floor((now - phase) / intervalMs + 1) * intervalMs + phase;
}
