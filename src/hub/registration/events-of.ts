import type { RegistrationEvent } from './diary.ts';
import type { Machine } from './machine.ts';
import type { MachineRecord } from './machine-record.ts';

export interface RecordChange {
  /** What was told of it until now, maybe by another leader, and of another workload of that name. */
  readonly before: MachineRecord | undefined;
  readonly record: MachineRecord | undefined;
  /** What is wrong with what the machine wrote, in words. */
  readonly trouble: string | undefined;
}

/** What goes on record when a machine is told anew. From the records alone: a new leader tells nothing twice. */
export function eventsOf(machine: Machine, { before, record, trouble }: RecordChange): RegistrationEvent[] {
  if (record === undefined) return [];
  const former = before?.uid === record.uid ? before : undefined;
  const { state, identity, addresses } = record;
  const session = record.session === undefined ? {} : { session: record.session };
  const events: RegistrationEvent[] = [];
  if (state === 'registered' && (former?.state !== 'registered' || former.session !== record.session))
    events.push({ event: 'registered', reason: `identity ${identity}, ${addresses.join(', ')}`, ...session });
  if (state === 'expired' && former !== undefined && former.state !== 'expired')
    events.push({ event: 'registration-ended', reason: record.reason ?? '', ...session });
  if (trouble !== undefined && isNew(machine, former))
    events.push({ event: 'registration-refused', reason: trouble, ...session });
  return events;
}

function isNew({ refused, claims, problem }: Machine, former: MachineRecord | undefined): boolean {
  const known = [former?.refused ?? [], former?.claims ?? []];
  return JSON.stringify([refused, claims]) !== JSON.stringify(known) || (problem ?? former?.reason) !== former?.reason;
}
