import { type Address, contains, formatAddress, formatPrefix, type Prefix } from '../../core/ip.ts';
import type { ServiceTable } from '../services/service-table.ts';
import type { ForeignAddresses } from '../workloads/foreign-addresses.ts';
import { wholeAddress } from '../workloads/prefix-index.ts';
import { rangesOf, type Workload } from '../workloads/workload.ts';
import type { WorkloadBook } from '../workloads/workload-book.ts';

export interface ObjectionsOptions {
  readonly book: WorkloadBook;
  readonly pools: readonly Prefix[];
  /** Addresses of the hub. */
  readonly own: readonly Address[];
  readonly foreign: ForeignAddresses;
  readonly services: Pick<ServiceTable, 'ownerOf'>;
}

/** Who wants an address. */
export interface Claimant {
  readonly name: string;
  readonly workload: Workload;
  /** What it has already. */
  readonly held: ReadonlySet<string>;
  /** Addresses of all machines, each with its workload. */
  readonly takenBy: ReadonlyMap<string, string>;
}

/** Why a machine must not have an address that is plausible in itself: it belongs to somebody else. */
export class Objections {
  readonly #options: ObjectionsOptions;
  readonly #own: ReadonlySet<string>;

  constructor(options: ObjectionsOptions) {
    this.#options = options;
    this.#own = new Set(options.own.map(formatAddress));
  }

  find(address: Address, claimant: Claimant): string | undefined {
    const { book, pools, foreign, services } = this.#options;
    const text = formatAddress(address);
    const whole = wholeAddress(address);
    const taken = claimant.takenBy.get(text);
    if (taken !== undefined && taken !== claimant.name) return `workload ${taken} has it`;
    const range = book.ranges.index.overlapping(whole, (owner) => owner !== claimant.name);
    if (range !== undefined) return `it lies in ${formatPrefix(range.prefix)} of workload ${range.owner}`;
    const within = rangesOf(claimant.workload).some((each) => contains(each, whole));
    const pool = within ? undefined : pools.find((each) => contains(each, whole));
    if (pool !== undefined) return `it lies in the pool ${formatPrefix(pool)}`;
    if (this.#own.has(text)) return 'the hub has it';
    const service = services.ownerOf(text);
    if (service !== undefined) return `it is the address of service ${service}`;
    // What was published before a cluster claimed it stays: a cluster must not knock machines out.
    if (claimant.held.has(text)) return undefined;
    const owner = foreign.ownerOf(address);
    return owner === undefined ? undefined : `it is in use: ${owner}`;
  }
}
