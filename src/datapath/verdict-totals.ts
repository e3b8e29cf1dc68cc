import type { Counter, DatapathStatus, VerdictCount } from './datapath.ts';
import { TOLD, VERDICT_KINDS, VERDICT_POINTS } from './verdict-log.ts';

const DIRECTION = { in: 'ingress', out: 'egress' } as const;
const NOTHING: Counter = { packets: 0, bytes: 0 };

/**
 * Verdicts so far, as the kernel counts them. They go on where they were when they are made anew (`totals` is what the
 * counters begin with), so that they never go back.
 */
export class VerdictTotals {
  #totals = new Map<string, Counter>();
  #last = new Map<string, Counter>();

  /** By the name of the counter. */
  get totals(): ReadonlyMap<string, Counter> {
    return this.#totals;
  }

  /** Dropped, or would have been if it were not for the audit. */
  get denied(): DatapathStatus['denied'] {
    const sum = { ingress: { packets: 0, bytes: 0 }, egress: { packets: 0, bytes: 0 } };
    for (const { direction, kind, packets, bytes } of this.counts) {
      if (VERDICT_KINDS[kind].verdict === 'FORWARDED') continue;
      sum[direction].packets += packets;
      sum[direction].bytes += bytes;
    }
    return sum;
  }

  get counts(): VerdictCount[] {
    return VERDICT_POINTS.flatMap(({ name, kind, side }) => {
      const counter = this.#totals.get(name);
      return counter === undefined ? [] : [{ kind, direction: DIRECTION[side], ...counter }];
    });
  }

  /** Packets that were told of. */
  get told(): number {
    return (this.#totals.get(TOLD.in)?.packets ?? 0) + (this.#totals.get(TOLD.out)?.packets ?? 0);
  }

  /** What the counters say now. */
  take(now: Map<string, Counter>): void {
    for (const [name, counter] of now) {
      const last = this.#last.get(name) ?? NOTHING;
      const total = this.#totals.get(name) ?? NOTHING;
      // Fewer than before: somebody has reset it.
      const from = counter.packets < last.packets ? NOTHING : last;
      this.#totals.set(name, {
        packets: total.packets + counter.packets - from.packets,
        bytes: total.bytes + counter.bytes - from.bytes,
      });
    }
    this.#last = now;
  }

  /** The counters are made anew, and begin with the totals. */
  began(): void {
    this.#last = new Map(this.#totals);
  }
}
