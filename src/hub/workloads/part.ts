import { contains, formatPrefix, type Prefix, parseAddress } from '../../core/ip.ts';
import { revokeEnrolment } from '../enrolment/part.ts';
import type { HubContext, HubPart, PartFactory } from '../part.ts';
import { type HubFacts, openHubFacts } from './hub-facts.ts';
import { wholeAddress } from './prefix-index.ts';
import { serveWorkloads } from './workload-api.ts';
import { Workloads } from './workloads.ts';

/** Workloads as an administrator creates, changes and deletes them, in every hub. */
export const workloadsPart: Extract<PartFactory, { where: 'everywhere' }> = {
  where: 'everywhere',
  create: (context) => new WorkloadsPart(context),
};

class WorkloadsPart implements HubPart {
  readonly name = 'workloads';
  readonly #context: HubContext;
  #facts: HubFacts | undefined;

  constructor(context: HubContext) {
    this.#context = context;
  }

  async start(): Promise<void> {
    const { store, api, config } = this.#context;
    const facts = openHubFacts(store);
    this.#facts = facts;
    const workloads = new Workloads({
      store,
      book: facts.book,
      pools: config.pools,
      occupied: (range) => facts.foreign.overlapping(range) ?? machineIn(facts, range),
      revoke: (name) => revokeEnrolment(this.#context, name, 'administrator'),
    });
    serveWorkloads(api, { facts, workloads });
  }

  async stop(): Promise<void> {
    this.#facts?.close();
  }

  status(): object {
    const facts = this.#facts;
    return {
      workloads: facts?.book.size ?? 0,
      ranges: facts?.book.ranges.size ?? 0,
      unreadable: Object.fromEntries([...(facts?.book.unreadable ?? [])].slice(0, 10)),
      foreignAddresses: facts?.foreign.size ?? 0,
    };
  }
}

/** A machine that has an address in it: a range must not take it away. */
function machineIn({ records }: HubFacts, range: Prefix): string | undefined {
  for (const [name, { addresses }] of records.entries())
    for (const text of addresses) {
      const address = parseAddress(text);
      if (address !== undefined && contains(range, wholeAddress(address)))
        return `${text} of workload ${name} lies in ${formatPrefix(range)}`;
    }
  return undefined;
}
