import type { CheckRecord } from '../../api/doctor-types.ts';
import { nearest } from '../../config/nearest.ts';
import { type Check, Findings } from '../check.ts';
import type { EndpointEvidence } from './probe-endpoint.ts';
import type { ConfiguredStore } from './store-list.ts';

export const STORE_CHECK = { group: 'stores', name: 'store' } as const satisfies Pick<Check, 'group' | 'name'>;
/** Cilium writes one every minute, under a lease of 15. */
const HEARTBEAT_LATE_MS = 5 * 60_000;
/** Certificates and leases bear a little. */
const SKEW_MS = 10_000;

export interface StoreEvidence {
  readonly store: ConfiguredStore;
  readonly endpoints: readonly EndpointEvidence[];
  readonly now: number;
  /** Heartbeats that the running agent saw go on, milliseconds since the epoch by the clock of this machine. */
  readonly heartbeatSeenAt?: number;
}

/** What the endpoints of one store answered. A store of which one endpoint is good works, and is a warning. */
export function judgeStore(evidence: StoreEvidence): CheckRecord[] {
  const { store, endpoints } = evidence;
  const findings = new Findings(STORE_CHECK);
  if (store.problem !== undefined) {
    findings.thrown(store.problem, 'KVS-FILE', { subject: store.name });
    return findings.list;
  }
  const good = endpoints.filter(({ failure }) => failure === undefined);
  for (const each of endpoints) {
    const { failure, endpoint } = each;
    if (failure === undefined) continue;
    const details = { subject: store.name, place: failure.place?.startsWith('/') ? failure.place : endpoint };
    if (good.length === 0) findings.error(failure.code, failure.message, details);
    else
      findings.warning(
        failure.code,
        `${failure.message} (${good.length} other ${good.length === 1 ? 'endpoint' : 'endpoints'} of ${endpoints.length} good)`,
        details,
      );
  }
  judgeSameStore(evidence, good, findings);
  const [first] = good;
  if (first === undefined) return findings.list;
  judgeClusters(store, first, findings);
  judgeHeartbeat(evidence, first, findings);
  if (findings.list.length === 0) {
    findings.ok(
      `${first.endpoint} answers (etcd cluster ${first.clusterId ?? 'unknown'}${heartbeatText(evidence, first)})`,
      { subject: store.name },
    );
  }
  return findings.list;
}

function judgeSameStore({ store }: StoreEvidence, good: readonly EndpointEvidence[], findings: Findings): void {
  const ids = new Map(
    good.flatMap(({ clusterId, endpoint }) => (clusterId === undefined ? [] : [[clusterId, endpoint] as const])),
  );
  if (ids.size < 2) return;
  const text = [...ids].map(([id, endpoint]) => `${endpoint} is of etcd cluster ${id}`).join('; ');
  findings.error('KVS-MIXED', text, { subject: store.name });
}

/** Whether the store is that of the cluster that its file is named after. */
function judgeClusters(store: ConfiguredStore, { clusters, endpoint }: EndpointEvidence, findings: Findings): void {
  if (clusters === undefined || store.name === 'kvstore') return;
  const config = clusters.get(store.name);
  const details = { subject: store.name, place: endpoint };
  if (config instanceof Error) findings.error('MSH-CONFIG', config.message, details);
  // Whether the joined one is the right one is settled with the registration.
  if (config !== undefined || store.joined) return;
  const own = [...clusters].filter(([, each]) => !(each instanceof Error) && !each.cached).map(([name]) => name);
  if (own.length === 0) return;
  const close = nearest(store.name, own) ?? (own.length === 1 ? own[0] : undefined);
  const hint = close === undefined ? '' : `; rename the file to ${close}, if that cluster is meant`;
  findings.error(
    'MSH-CLUSTER-NAME',
    `the store is that of ${own.slice(0, 3).join(', ')}, not of ${store.name}${hint}`,
    details,
  );
}

/** The heartbeat is the other side's clock, written once a minute. */
function judgeHeartbeat(evidence: StoreEvidence, { heartbeat, endpoint }: EndpointEvidence, findings: Findings): void {
  const { store, now, heartbeatSeenAt } = evidence;
  if (heartbeat === undefined) return;
  const details = { subject: store.name, place: endpoint };
  const ahead = heartbeat - now;
  if (ahead > SKEW_MS) {
    findings.error(
      'HST-CLOCK',
      `the clock of this machine is at least ${words(ahead)} behind that of the cluster`,
      details,
    );
  } else if (-ahead > HEARTBEAT_LATE_MS) {
    const goesOn = heartbeatSeenAt !== undefined && now - heartbeatSeenAt < HEARTBEAT_LATE_MS;
    if (goesOn)
      findings.error(
        'HST-CLOCK',
        `the clock of this machine is about ${words(-ahead)} ahead of that of the cluster`,
        details,
      );
    else findings.warning('KVS-HEARTBEAT', `the last heartbeat is ${words(-ahead)} old`, details);
  }
}

function heartbeatText({ now }: StoreEvidence, { heartbeat }: EndpointEvidence): string {
  return heartbeat === undefined ? '' : `, heartbeat ${words(Math.max(0, now - heartbeat))} ago`;
}

function words(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
