import { contains, type Prefix, parseAddress } from '../../core/ip.ts';
import { revokeEnrolment } from '../enrolment/part.ts';
import type { HubContext, HubPart, PartFactory } from '../part.ts';
import type { Occupied } from './foreign-addresses.ts';
import { type HubFacts, openHubFacts } from './hub-facts.ts';
import { exportWorkloads } from './metrics.ts';
import { wholeAddress } from './prefix-index.ts';
import { serveWorkloads } from './workload-api.ts';
import { Workloads, type WorkloadsOptions } from './workloads.ts';

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
    const { store, api, config, metrics } = this.#context;
    const facts = openHubFacts(store, config.cluster.name);
    this.#facts = facts;
    const workloads = workloadsOf(this.#context, { facts, store, by: 'administrator' });
    serveWorkloads(api, { facts, workloads, kubernetes: config.kubernetes.config !== undefined });
    exportWorkloads(metrics, facts);
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

/** To change workloads on behalf of someone. `store` may be one that writes as leader alone. */
export function workloadsOf(
  context: HubContext,
  options: { readonly facts: HubFacts; readonly store: WorkloadsOptions['store']; readonly by: string },
): Workloads {
  const { facts, store, by } = options;
  return new Workloads({
    store,
    book: facts.book,
    pools: context.config.pools,
    occupied: (range) => facts.foreign.overlapping(range) ?? holderIn(facts, range),
    revoke: (name) => revokeEnrolment(context, name, by),
  });
}

/** A machine or a service that has an address in it: a range must not take it away. */
function holderIn({ records, services }: HubFacts, range: Prefix): Occupied | undefined {
  for (const text of services.frontends()) {
    const prefix = prefixOfText(text);
    if (prefix !== undefined && contains(range, prefix))
      return { prefix, owner: `${text} of service ${services.ownerOf(text)}` };
  }
  for (const [name, { addresses }] of records.entries())
    for (const text of addresses) {
      const prefix = prefixOfText(text);
      if (prefix !== undefined && contains(range, prefix)) return { prefix, owner: `${text} of workload ${name}` };
    }
  return undefined;
}

function prefixOfText(text: string): Prefix | undefined {
  const address = parseAddress(text);
  return address && wholeAddress(address);
}
