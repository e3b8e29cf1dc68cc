import { API_VERSION } from '../../api/types.ts';
import { formatPrefix } from '../../core/ip.ts';
import type { MachineRecord } from '../registration/machine-record.ts';
import type { RefusedAddress } from '../registration/review.ts';
import type { LabelMap } from './labels.ts';
import type { Workload, WorkloadSource } from './workload.ts';

/** One workload, as `hub workload get` shows it in JSON and YAML. Times are milliseconds since the epoch. */
export interface WorkloadRecord {
  readonly apiVersion: string;
  readonly kind: 'Workload';
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly source: WorkloadSource;
  readonly labels: LabelMap;
  readonly serviceAccount: string | null;
  readonly ipv4AllocCidr: string | null;
  readonly ipv6AllocCidr: string | null;
  readonly created: number;
  readonly changed: number;
  readonly state: WorkloadState;
  /** Since when it is in that state; null when it was never seen. */
  readonly since: number | null;
  readonly identity: number | null;
  /** Published ones. */
  readonly addresses: readonly string[];
  /** Reported ones that it must not have. */
  readonly refused: readonly RefusedAddress[];
  /** What it says of itself and is not so. */
  readonly claims: readonly string[];
  readonly reason: string | null;
  readonly lastSeen: number | null;
  readonly agentVersion: string | null;
  readonly policyRevision: string | null;
  /** Since when it wants no new connections from services; null while it takes them. */
  readonly drained: number | null;
  /** Since when no hub has a connection of its machine, once that is longer than it may be; null otherwise. */
  readonly unreachable: number | null;
}

export type WorkloadState = 'never-seen' | 'waiting' | 'registered' | 'expired' | 'revoked';

export function workloadRecord(workload: Workload, found: MachineRecord | undefined): WorkloadRecord {
  // Of another workload that had the same name.
  const machine = found?.uid === workload.uid ? found : undefined;
  const { range4, range6, revoked } = workload;
  const state = revoked !== undefined ? 'revoked' : (machine?.state ?? 'never-seen');
  return {
    apiVersion: API_VERSION,
    kind: 'Workload',
    name: workload.name,
    namespace: workload.namespace,
    uid: workload.uid,
    source: workload.source,
    labels: workload.labels,
    serviceAccount: workload.serviceAccount ?? null,
    ipv4AllocCidr: range4 === undefined ? null : formatPrefix(range4),
    ipv6AllocCidr: range6 === undefined ? null : formatPrefix(range6),
    created: workload.created,
    changed: workload.changed,
    state,
    since: state === 'revoked' ? (revoked ?? null) : (machine?.since ?? null),
    identity: machine?.identity ?? null,
    addresses: machine?.addresses ?? [],
    refused: machine?.refused ?? [],
    claims: machine?.claims ?? [],
    reason: machine?.reason ?? null,
    lastSeen: machine?.lastSeen ?? null,
    agentVersion: machine?.agentVersion ?? null,
    policyRevision: machine?.policyRevision ?? null,
    drained: machine?.serving.drained ?? null,
    unreachable: machine?.serving.unreachable?.since ?? null,
  };
}
