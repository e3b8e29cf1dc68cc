interface Tally {
  total: number;
  generation: number;
  /** Claims that carry `generation`, at least; what is counted too low only costs a scan. */
  marked: number;
}

interface Counted {
  readonly origin: number;
  readonly generation: number;
}

/** How many claims each origin has, and whether the last list said all of them again: then a sweep has nothing to look for. */
export class Tallies {
  readonly #all: (Tally | undefined)[] = [];

  of(origin: number): number {
    return this.#all[origin]?.total ?? 0;
  }

  /** False when surely no claim of an origin is of another generation. */
  hasOthers(origin: number, generation: number | undefined): boolean {
    const tally = this.#all[origin];
    if (tally === undefined || tally.total === 0) return false;
    return tally.generation !== generation || tally.marked < tally.total;
  }

  add({ origin, generation }: Counted): void {
    let tally = this.#all[origin];
    if (tally === undefined) {
      tally = { total: 0, generation, marked: 0 };
      this.#all[origin] = tally;
    }
    if (tally.generation !== generation) {
      tally.generation = generation;
      tally.marked = 0;
    }
    tally.total++;
    tally.marked++;
  }

  drop({ origin, generation }: Counted): void {
    const tally = this.#all[origin];
    if (tally === undefined) return;
    tally.total--;
    if (tally.generation === generation) tally.marked--;
  }
}
