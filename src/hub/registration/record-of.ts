import { POLICY_ANNOTATION, VERSION_ANNOTATION } from '../../kvstore/codec/register-node.ts';
import type { Workload } from '../workloads/workload.ts';
import { addressTexts, annotation, backendAddresses, type Machine } from './machine.ts';
import type { MachineRecord, MachineState } from './machine-record.ts';

/** A machine writes at least every five minutes or so: not each of them is a new record. */
const SEEN_MS = 10 * 60_000;

export interface RecordFacts {
  readonly workload: Workload;
  /** Whether anything of it is published. */
  readonly published: boolean;
  /** What a connected cluster has, too. */
  readonly overlap: string | undefined;
}

/** What is told of a machine; undefined of one that was never seen. */
export function recordOf(machine: Machine, { workload, published, overlap }: RecordFacts): MachineRecord | undefined {
  const before = machine.record?.uid === workload.uid ? machine.record : undefined;
  const state = stateOf(machine, workload, published);
  if (state === 'expired' && before === undefined && !published) return undefined;
  const seen = machine.lastSeen ?? before?.lastSeen;
  const known = before?.lastSeen;
  const fresh =
    seen !== undefined && known !== undefined && Math.abs(seen - known) < SEEN_MS && state === before?.state;
  return {
    uid: workload.uid,
    state,
    since: state === before?.state ? before.since : Date.now(),
    lastSeen: fresh ? known : seen,
    identity: machine.identity?.number,
    session: machine.registration?.session ?? before?.session,
    addresses: published ? addressTexts(machine) : [],
    refused: machine.refused,
    claims: machine.claims,
    reason: reasonOf(machine, state) ?? overlap,
    agentVersion: annotation(machine, VERSION_ANNOTATION) ?? before?.agentVersion,
    policyRevision: annotation(machine, POLICY_ANNOTATION) ?? before?.policyRevision,
    serving: {
      addresses: published ? backendAddresses(machine) : [],
      drained: machine.report.drained,
      checks: machine.report.checks,
      silent: machine.silent,
      unreachable: machine.unreachable,
    },
  };
}

/** What is wrong with what the machine wrote, in words; it is no trouble to be on the way, or away. */
export function troubleOf(machine: Machine, record: MachineRecord | undefined): string | undefined {
  if (record?.state !== 'waiting' && record?.state !== 'registered') return undefined;
  const { refused, claims, problem } = machine;
  const wrong = [problem, ...refused.map(({ address, reason }) => `${address}: ${reason}`), ...claims];
  return wrong.filter((each) => each !== undefined).join('; ') || undefined;
}

function stateOf({ registration, revoked }: Machine, workload: Workload, published: boolean): MachineState {
  if (workload.revoked !== undefined || revoked) return 'revoked';
  if (registration === undefined) return 'expired';
  return published ? 'registered' : 'waiting';
}

function reasonOf({ problem, expires, registration }: Machine, state: MachineState): string | undefined {
  if (problem !== undefined) return problem;
  if (state === 'waiting')
    return registration?.node?.nodeIdentity === 0
      ? 'it announced itself and is being answered'
      : 'it was answered and has not reported its addresses';
  if (state === 'revoked') return 'its rights were ended';
  if (state === 'expired')
    return expires === undefined ? 'its registration ended' : 'its registration ended; its facts stay for a while';
  return undefined;
}
