import { ERROR_CODES, type ErrorCode } from '../../core/errors.ts';
import type { Store } from '../../kvstore/store.ts';
import type { CertificateRecord, Verdict } from '../clusters/records.ts';
import { REFUSALS, type Refusal } from './admission.ts';
import type { RangeOverlap } from './range-overlaps.ts';
import type { RemoteCluster } from './remote-cluster.ts';
import type { RemoteConfig } from './remote-config.ts';

export interface VerdictFacts {
  readonly cluster: RemoteCluster;
  readonly certificates: {
    readonly authority: readonly CertificateRecord[];
    readonly client: readonly CertificateRecord[];
  };
  readonly overlaps: readonly RangeOverlap[];
  readonly now: number;
}

const DAY_MS = 86_400_000;
const NOTICE_MS = 30 * DAY_MS;
/** A live cluster writes one a minute. */
const HEARTBEAT_MS = 75_000;
const SHOWN_OVERLAPS = 5;

const WORDS: Record<Refusal, string> = {
  identity: "of identities outside of the cluster's block",
  address: "for addresses of another cluster's nodes or of the hub",
  form: 'under keys that no cluster writes',
  size: 'that are too large',
  count: 'beyond the limit of one cluster',
};

/** Every prerequisite of a connected cluster, in the order in which one would look into them. */
export function verdictsOf(facts: VerdictFacts): readonly Verdict[] {
  const { cluster, now } = facts;
  const { store } = cluster;
  return [
    ...certificates(facts),
    connection(store),
    ...troubles(store),
    heartbeat(store, now),
    ...configuration(cluster),
    ...canaries(cluster),
    ...ranges(facts),
    ...encryption(cluster),
    ...refusals(cluster),
    ...writes(cluster),
  ];
}

export function good(check: string, text: string): Verdict {
  return { check, state: 'ok', text };
}

export function bad(check: string, code: ErrorCode, text: string, state: 'error' | 'warning' = 'error'): Verdict {
  return { check, state, text, code, remedy: ERROR_CODES[code].remedy };
}

function certificates({ certificates: { authority, client }, now }: VerdictFacts): Verdict[] {
  return [...authority, ...client].flatMap(({ subject, notAfter }) => {
    const left = notAfter - now;
    if (left > NOTICE_MS) return [];
    const until = new Date(notAfter).toISOString();
    if (left <= 0) return [bad('certificates', 'KVS-TLS-EXPIRED', `${subject} expired on ${until}`)];
    const days = Math.floor(left / DAY_MS);
    return [
      bad('certificates', 'HUB-CLUSTER-CERTIFICATE', `${subject} expires in ${days} days, on ${until}`, 'warning'),
    ];
  });
}

function connection({ status }: Store): Verdict {
  if (status.state === 'connected') return good('connection', `connected to ${status.endpoint ?? ''}`);
  const trouble = status.troubles.find(({ subject }) => subject === 'connection') ?? status.lastFailure;
  if (trouble === undefined)
    return bad('connection', 'HUB-CLUSTER-WAITING', 'the first connection is on its way', 'warning');
  return bad('connection', trouble.code as ErrorCode, trouble.message);
}

/** Quorum, and what the role of our user does not allow. */
function troubles({ status }: Store): Verdict[] {
  return status.troubles
    .filter(({ subject }) => subject === 'quorum' || subject.startsWith('watch '))
    .map(({ subject, code, message }) => {
      const check = subject === 'quorum' ? 'quorum' : code === 'KVS-AUTH' ? 'authorization' : 'watch';
      return bad(check, code as ErrorCode, subject === 'quorum' ? message : `${subject.slice(6)}: ${message}`);
    });
}

function heartbeat({ status }: Store, now: number): Verdict {
  const trouble = status.troubles.find(({ subject }) => subject === 'heartbeat');
  if (trouble !== undefined) return bad('heartbeat', 'KVS-HEARTBEAT', trouble.message);
  const { lastHeartbeat, state, since } = status;
  if (lastHeartbeat !== undefined && now - lastHeartbeat < HEARTBEAT_MS)
    return good('heartbeat', `${Math.max(0, Math.round((now - lastHeartbeat) / 1000))} s ago`);
  if (state !== 'connected') return bad('heartbeat', 'HUB-CLUSTER-WAITING', 'not connected', 'warning');
  const from = lastHeartbeat ?? since;
  if (now - from < HEARTBEAT_MS) return good('heartbeat', 'the next one is awaited');
  return bad('heartbeat', 'KVS-HEARTBEAT', `none for ${Math.round((now - from) / 1000)} s`, 'warning');
}

function configuration(cluster: RemoteCluster): Verdict[] {
  const { problem, config, configured, name } = cluster;
  if (problem !== undefined)
    return [bad(problem.code === 'MSH-CLUSTER-ID' ? 'id' : 'configuration', problem.code, problem.message)];
  if (!configured && config === undefined)
    return [
      bad('configuration', 'HUB-CLUSTER-WAITING', `there is no key cilium/cluster-config/${name} there`, 'warning'),
    ];
  if (config === undefined) return [];
  const kept = configured ? '' : ' (not there at present)';
  return [
    good('id', `${config.id} of ${config.maxConnectedClusters}, unique`),
    good('configuration', `${versionHint(config)}${kept}`),
    good('kvstoremesh', config.cached ? 'the source is itself a cache' : "the source is the cluster's own state"),
  ];
}

/** What the capabilities tell of the version. */
export function versionHint({ serviceExports, sliceMode }: RemoteConfig): string {
  if (sliceMode !== '') return 'as Cilium 1.20 or newer writes it';
  return serviceExports === undefined ? 'as Cilium up to 1.16 writes it' : 'as Cilium 1.17 or newer writes it';
}

function canaries(cluster: RemoteCluster): Verdict[] {
  const { config, missingCanaries } = cluster;
  if (config === undefined) return [];
  if (!config.syncedCanaries) return [bad('canaries', 'HUB-CLUSTER-VERSION', 'the cluster writes none', 'warning')];
  if (missingCanaries.length > 0)
    return [
      bad(
        'canaries',
        'HUB-CLUSTER-WAITING',
        `${missingCanaries.join(', ')}: not there, so the store is not complete`,
        'warning',
      ),
    ];
  if (!cluster.synced) return [bad('canaries', 'HUB-CLUSTER-WAITING', 'all there; copying', 'warning')];
  return [good('canaries', 'all there, and everything is copied')];
}

function ranges({ cluster, overlaps }: VerdictFacts): Verdict[] {
  const mine = overlaps.filter(({ a, b }) => a.owner === cluster.name || b.owner === cluster.name);
  if (mine.length === 0) return cluster.synced ? [good('ranges', 'no node range overlaps with another one')] : [];
  const more = mine.length > SHOWN_OVERLAPS ? [`and ${mine.length - SHOWN_OVERLAPS} more`] : [];
  const shown = mine.slice(0, SHOWN_OVERLAPS).map(({ a, b }) => `${a.what} and ${b.what}`);
  return [bad('ranges', 'HUB-CLUSTER-RANGES', [...shown, ...more].join('; '))];
}

function encryption({ encryptingNodes: count }: RemoteCluster): Verdict[] {
  if (count === 0) return [];
  const text = `${count} ${count === 1 ? 'node encrypts' : 'nodes encrypt'}, by WireGuard or IPsec; machines do not`;
  return [bad('encryption', 'HUB-CLUSTER-ENCRYPTION', text, 'warning')];
}

function refusals(cluster: RemoteCluster): Verdict[] {
  const counts = refusedCounts(cluster);
  const words = REFUSALS.filter((reason) => reason !== 'count' && counts[reason] > 0).map(
    (reason) => `${counts[reason]} ${WORDS[reason]}`,
  );
  const { keys, bytes } = cluster.budget.limits;
  return [
    ...(words.length > 0 ? [bad('values', 'HUB-CLUSTER-REFUSED', words.join(', '), 'warning')] : []),
    ...(counts.count > 0
      ? [bad('limit', 'HUB-CLUSTER-LIMIT', `${counts.count} values ${WORDS.count}: ${keys} keys, ${bytes} bytes`)]
      : []),
  ];
}

export function refusedCounts(cluster: RemoteCluster): Record<Refusal, number> {
  const counts: Record<Refusal, number> = { identity: 0, address: 0, form: 0, size: 0, count: 0 };
  for (const replica of cluster.replicas) for (const reason of REFUSALS) counts[reason] += replica.refused(reason);
  return counts;
}

function writes(cluster: RemoteCluster): Verdict[] {
  for (const { lastError } of cluster.replicas)
    if (lastError !== undefined) return [bad('cache', 'HUB-CLUSTER-WRITE', lastError)];
  return [];
}
