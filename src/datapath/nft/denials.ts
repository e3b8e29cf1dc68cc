import type { NetlinkSocket } from '../../host/netlink.ts';
import { VerdictTotals } from '../verdict-totals.ts';
import { readCounters } from './kernel.ts';

/** Verdicts so far, by the counters of the table. */
export class Denials extends VerdictTotals {
  async read(socket: NetlinkSocket): Promise<void> {
    this.take(await readCounters(socket));
  }
}
