import { CACHE_KINDS, type CacheKind } from '../mesh/kinds.ts';
import type { ConnectedCluster, KvstoreMesh } from '../mesh/kvstoremesh.ts';
import { refusedCounts, verdictsOf } from '../mesh/verdicts.ts';
import { type ClusterAccess, type ClusterDocument, certificatesOf } from './cluster-document.ts';
import type { CertificateRecord, ConnectedClusterRecord, RemoteClusterRecord } from './records.ts';

const SHOWN_EXAMPLES = 10;

/** What is stored of a cluster, without its secrets. */
export function describeDocument(document: ClusterDocument): ConnectedClusterRecord {
  const { name, endpoints, connectedAt, changedAt } = document;
  return { name, endpoints, connectedAt, changedAt, certificates: certificatesIn(document) };
}

export function certificatesIn({ ca, cert }: ClusterAccess): ConnectedClusterRecord['certificates'] {
  return { authority: described(ca), client: described(cert).slice(0, 1) };
}

/** The same with everything that the hub that leads knows of it. */
export function describeCluster(mesh: KvstoreMesh, connected: ConnectedCluster): RemoteClusterRecord {
  const { cluster, document, readyAt } = connected;
  const { config, store } = cluster;
  const { status } = store;
  const base = describeDocument(document);
  const replicas = [...cluster.replicas];
  const byKind = <T>(value: (kind: CacheKind) => T): Record<CacheKind, T> =>
    Object.fromEntries(CACHE_KINDS.map((kind) => [kind, value(kind)])) as Record<CacheKind, T>;
  return {
    ...base,
    connected: status.state === 'connected',
    ready: cluster.ready,
    status: status.summary,
    config: {
      retrieved: config !== undefined,
      clusterId: config?.id ?? null,
      kvstoremesh: config?.cached ?? false,
      syncCanaries: config?.syncedCanaries ?? false,
      maxConnectedClusters: config?.maxConnectedClusters ?? null,
      serviceExports: config?.serviceExports ?? null,
    },
    counts: byKind((kind) => cluster.replica(kind).size),
    synced: byKind((kind) => cluster.isSynced(kind)),
    pending: replicas.reduce((sum, { pending }) => sum + pending, 0),
    bytes: cluster.budget.bytes,
    refused: refusedCounts(cluster),
    refusedExamples: replicas
      .flatMap((replica) =>
        replica.examples(SHOWN_EXAMPLES).map(({ key, reason }) => ({ key: `${replica.kind}/${key}`, reason })),
      )
      .slice(0, SHOWN_EXAMPLES),
    store: {
      state: status.state,
      endpoint: status.endpoint ?? null,
      clusterId: status.clusterId ?? null,
      reconnections: status.reconnections,
      failures: status.failures,
      lastFailure: status.lastFailure ?? null,
      lastHeartbeat: status.lastHeartbeat ?? null,
      troubles: status.troubles.map(({ subject, code, message }) => ({ subject, code, message })),
    },
    readyAt: readyAt ?? null,
    verdicts: verdictsOf({
      cluster,
      certificates: base.certificates,
      overlaps: mesh.overlaps,
      now: Date.now(),
    }),
  };
}

/** One element of `GET /v1/cluster` of Cilium's KVStoreMesh (kvstore specification 5.6). */
export function describeForCilium(record: RemoteClusterRecord): object {
  const { config, counts, store, synced } = record;
  const lastFailure =
    store.lastFailure === null ? '0001-01-01T00:00:00.000Z' : new Date(store.lastFailure.at).toISOString();
  return {
    config: {
      'cluster-id': config.clusterId ?? 0,
      ...(config.kvstoremesh && { kvstoremesh: true }),
      required: config.retrieved,
      retrieved: config.retrieved,
      ...(config.serviceExports !== null && { 'service-exports-enabled': config.serviceExports }),
      'sync-canaries': config.syncCanaries,
    },
    connected: record.connected,
    'last-failure': lastFailure,
    name: record.name,
    'num-endpoints': counts.ip,
    ...(store.failures > 0 && { 'num-failures': store.failures }),
    'num-identities': counts.identities,
    'num-nodes': counts.nodes,
    'num-shared-services': counts.services,
    ready: record.ready,
    status: record.status,
    synced: {
      endpoints: synced.ip,
      identities: synced.identities,
      nodes: synced.nodes,
      services: synced.services,
    },
  };
}

function described(pem: string | undefined): readonly CertificateRecord[] {
  if (pem === undefined) return [];
  try {
    return certificatesOf(pem, 'certificate').map((certificate) => ({
      serial: (certificate.serialNumber.match(/../g) ?? []).join(':').toLowerCase(),
      subject: certificate.subject.replaceAll('\n', ', '),
      issuer: certificate.issuer.replaceAll('\n', ', '),
      notBefore: certificate.validFromDate.getTime(),
      notAfter: certificate.validToDate.getTime(),
    }));
  } catch {
    // It was checked when it came; what can be said of it is nothing.
    return [];
  }
}
