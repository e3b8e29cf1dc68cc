import { ConnectionBook } from '../connections/connection-book.ts';
import type { HubStore } from '../hub-store.ts';
import { decodeMachineRecord, type MachineRecord, REGISTRATIONS_PREFIX } from '../registration/machine-record.ts';
import { ServiceTable } from '../services/service-table.ts';
import { ForeignAddresses } from './foreign-addresses.ts';
import { Mirror } from './mirror.ts';
import { WorkloadBook } from './workload-book.ts';

/** What every hub knows, whether it leads or not: workloads, what became of their machines and which are connected, what they serve, and what others have. */
export interface HubFacts {
  readonly book: WorkloadBook;
  readonly records: Mirror<MachineRecord>;
  readonly foreign: ForeignAddresses;
  readonly services: ServiceTable;
  readonly connections: ConnectionBook;
  ready(): Promise<void>;
  close(): void;
}

const open = new WeakMap<HubStore, HubFacts>();

/** Opened by the part that runs everywhere, before any leader. */
export function openHubFacts(store: HubStore, cluster: string): HubFacts {
  const book = new WorkloadBook(store);
  const records = new Mirror<MachineRecord>({
    store,
    prefix: REGISTRATIONS_PREFIX,
    decode: (_name, value) => decodeMachineRecord(value),
    onChange: (name) => services.recordChanged(name),
  });
  const services: ServiceTable = new ServiceTable({ store, cluster, book, record: (name) => records.get(name) });
  const foreign = new ForeignAddresses(store);
  const connections = new ConnectionBook(store);
  const facts: HubFacts = {
    book,
    records,
    foreign,
    services,
    connections,
    async ready() {
      await Promise.all([book, records, foreign, services, connections].map((each) => each.ready()));
    },
    close() {
      open.delete(store);
      book.close();
      records.close();
      foreign.close();
      services.close();
      connections.close();
    },
  };
  open.set(store, facts);
  return facts;
}

/** Those of this hub. */
export function hubFactsOf(store: HubStore): HubFacts {
  const facts = open.get(store);
  if (facts === undefined) throw new Error('the facts of this hub are not open');
  return facts;
}
