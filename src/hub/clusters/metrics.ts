import { Gauge } from 'prom-client';
import type { Metrics } from '../../observe/metrics.ts';
import { REFUSALS } from '../mesh/admission.ts';
import { CACHE_KINDS } from '../mesh/kinds.ts';
import type { KvstoreMesh } from '../mesh/kvstoremesh.ts';

export interface ClusterMetricsOptions {
  /** Of the hub. */
  readonly cluster: string;
  /** Undefined while this hub does not lead. */
  readonly mesh: () => KvstoreMesh | undefined;
}

/** Names and labels of Cilium's kvstoremesh; what it does not have goes under our own name. */
export function exportClusters(metrics: Metrics, { cluster, mesh }: ClusterMetricsOptions): void {
  const registers = [metrics.registry];
  const gauge = <Label extends string>(name: string, help: string, labelNames: Label[]): Gauge<Label> =>
    new Gauge({ name, help, labelNames, registers });
  const prefix = 'cilium_kvstoremesh_';
  const remote = ['source_cluster', 'target_cluster'] as const;
  const bootstrap = gauge(`${prefix}bootstrap_seconds`, 'from the start until all clusters were copied', [
    'source_cluster',
  ]);
  const clusters = gauge(`${prefix}remote_clusters`, 'remote clusters', ['source_cluster']);
  const failures = gauge(`${prefix}remote_cluster_failures`, 'failures of the connection', [...remote]);
  const lastFailure = gauge(`${prefix}remote_cluster_last_failure_ts`, 'time of the last failure, seconds', [
    ...remote,
  ]);
  const readiness = gauge(`${prefix}remote_cluster_readiness_status`, 'whether a cluster is ready', [...remote]);
  const queue = gauge(`${prefix}kvstore_sync_queue_size`, 'keys that are still to be written', [
    'scope',
    'source_cluster',
  ]);
  const synced = gauge(`${prefix}kvstore_initial_sync_completed`, 'whether the first copy is complete', [
    'scope',
    'source_cluster',
    'action',
  ]);
  const refused = gauge('mesh_agent_hub_cluster_refused', 'values of a cluster that are not copied', [
    'target_cluster',
    'reason',
  ]);
  const keys = gauge('mesh_agent_hub_cluster_keys', 'keys of a cluster in the cache', ['target_cluster', 'kind']);
  const all = [bootstrap, clusters, failures, lastFailure, readiness, queue, synced, refused, keys];
  metrics.onScrape(() => {
    for (const each of all) each.reset();
    const now = mesh();
    if (now === undefined) return;
    const seconds = now.readiness.bootstrapSeconds;
    if (seconds !== undefined) bootstrap.set({ source_cluster: cluster }, seconds);
    clusters.set({ source_cluster: cluster }, now.clusters.length);
    for (const { document, cluster: each } of now.clusters) {
      const labels = { source_cluster: cluster, target_cluster: document.name };
      const { status } = each.store;
      failures.set(labels, status.failures);
      lastFailure.set(labels, (status.lastFailure?.at ?? 0) / 1000);
      readiness.set(labels, each.ready ? 1 : 0);
      for (const kind of CACHE_KINDS) {
        const replica = each.replica(kind);
        queue.set({ scope: `${kind}/v1`, source_cluster: document.name }, replica.pending);
        synced.set(
          { scope: `${kind}/v1`, source_cluster: document.name, action: 'write' },
          each.isSynced(kind) ? 1 : 0,
        );
        keys.set({ target_cluster: document.name, kind }, replica.size);
      }
      for (const reason of REFUSALS) {
        let count = 0;
        for (const replica of each.replicas) count += replica.refused(reason);
        refused.set({ target_cluster: document.name, reason }, count);
      }
    }
  });
}
