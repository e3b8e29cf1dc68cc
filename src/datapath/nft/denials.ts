import type { NetlinkSocket } from '../../host/netlink.ts';
import type { Counter, DatapathStatus } from '../datapath.ts';
import { forEachRow } from './dump.ts';
import { VERDICT } from './elements.ts';
import { readCounter } from './kernel.ts';

/** At most one part in so many of the time goes into reading counters: there may be thousands of rows. */
const REST = 500;

interface Total {
  packets: number;
  bytes: number;
}

/**
 * Packets denied so far (in audit: that would have been). A denying row has a counter of its own, which goes when the row
 * goes; what it had counted when it was last seen stays in the sum.
 */
export class Denials {
  readonly #total = { ingress: { packets: 0, bytes: 0 }, egress: { packets: 0, bytes: 0 } };
  #last = new Map<string, Counter>();
  #nextAt = 0;

  get totals(): DatapathStatus['denied'] {
    return this.#total;
  }

  /** Reads the counters, unless it was done a moment ago and takes long. */
  async read(socket: NetlinkSocket): Promise<void> {
    const start = performance.now();
    if (start < this.#nextAt) return;
    const now = new Map<string, Counter>();
    for (const [side, direction] of [
      ['in', 'ingress'],
      ['out', 'egress'],
    ] as const) {
      const total = this.#total[direction];
      this.#count({ name: `denied_${side}`, counter: await readCounter(socket, `denied_${side}`) }, { now, total });
      await forEachRow(socket, side, (name, { key, keyEnd, value, packets, bytes }) => {
        if (value === VERDICT.return || packets === 0) return;
        const row = `${name}_${side} ${key.toString('latin1')} ${keyEnd?.toString('latin1')}`;
        this.#count({ name: row, counter: { packets, bytes } }, { now, total });
      });
    }
    this.#last = now;
    const end = performance.now();
    this.#nextAt = end + (end - start) * REST;
  }

  #count(of: { name: string; counter: Counter }, into: { now: Map<string, Counter>; total: Total }): void {
    const { name, counter } = of;
    const last = this.#last.get(name);
    // Fewer than before: it was made anew meanwhile.
    const fresh = last === undefined || counter.packets < last.packets;
    into.total.packets += counter.packets - (fresh ? 0 : last.packets);
    into.total.bytes += counter.bytes - (fresh ? 0 : last.bytes);
    into.now.set(name, counter);
  }
}
