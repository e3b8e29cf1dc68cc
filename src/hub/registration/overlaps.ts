import { formatAddress, formatPrefix } from '../../core/ip.ts';
import type { NodeAddress } from '../../kvstore/codec/node.ts';
import type { ForeignAddresses } from '../workloads/foreign-addresses.ts';
import { rangesOf, type Workload } from '../workloads/workload.ts';
import type { WorkloadBook } from '../workloads/workload-book.ts';

export interface OverlapsOptions {
  readonly book: WorkloadBook;
  readonly foreign: ForeignAddresses;
  /** What is published of a machine. */
  readonly addresses: (name: string) => readonly NodeAddress[];
  /** What the look at all of them found; undefined where nothing overlaps. */
  readonly onFound: (name: string, overlap: string | undefined) => void;
}

/** Clusters change hundreds of times a second; all workloads are compared with them not more often than this. */
const CHECK_MS = 15_000;

/** Addresses and ranges of workloads that a connected cluster has as well: nothing is withdrawn, but told. */
export class Overlaps {
  readonly #options: OverlapsOptions;
  #checkedAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: OverlapsOptions) {
    this.#options = options;
  }

  find(workload: Workload): string | undefined {
    const { foreign, addresses } = this.#options;
    for (const { address } of addresses(workload.name)) {
      const owner = foreign.ownerOf(address);
      if (owner !== undefined) return `${formatAddress(address)} is also in use: ${owner}`;
    }
    for (const range of rangesOf(workload)) {
      const occupied = foreign.overlapping(range);
      if (occupied !== undefined) return `${formatPrefix(range)} is also in use: ${occupied.owner}`;
    }
    return undefined;
  }

  checkSoon(): void {
    const wait = Math.max(0, this.#checkedAt + CHECK_MS - performance.now());
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#checkedAt = performance.now();
      for (const workload of this.#options.book.values()) this.#options.onFound(workload.name, this.find(workload));
    }, wait).unref();
  }

  close(): void {
    clearTimeout(this.#timer);
  }
}
