import type { ClusterRecord, StatusRecord } from '../api/types.ts';
import { printable } from '../observe/printable.ts';
import { ago } from './words.ts';

export interface ClustermeshOptions {
  readonly now: number;
  /** All lines of every cluster, not only of those that are not ready. */
  readonly all: boolean;
}

/**
 * The ClusterMesh block in the words of `cilium-dbg status` (kvstore specification 10.1). The cluster that the machine
 * joined is listed too, and not counted as a remote one.
 * @returns the value after `ClusterMesh:` and the lines below it
 */
export function clustermeshText(
  status: StatusRecord,
  options: ClustermeshOptions,
): { readonly head: string; readonly lines: readonly string[] } {
  const remote = status.clusters.filter(({ kind }) => kind !== 'joined');
  const ready = remote.filter((cluster) => cluster.ready).length;
  return {
    head: `${ready}/${remote.length} remote clusters ready, ${status.counts.globalServices} global-services`,
    lines: status.clusters.flatMap((cluster) => clusterLines(cluster, options)),
  };
}

function clusterLines(cluster: ClusterRecord, { now, all }: ClustermeshOptions): string[] {
  const { store, synced, config } = cluster;
  const counts = [
    `${cluster.numNodes} nodes`,
    `${cluster.numEndpoints} endpoints`,
    `${cluster.numIdentities} identities`,
    `${cluster.numServices} services`,
    ...(cluster.numEndpointSlices === undefined ? [] : [`${cluster.numEndpointSlices} endpoint slices`]),
    `${store.reconnections} reconnections (last: ${ago(store.lastFailure?.at, now)})`,
  ];
  if (cluster.kind === 'joined') counts.push('joined by this machine');
  const state = cluster.ready ? 'ready' : 'not-ready';
  const lines = [`   ${printable(cluster.name)}: ${state}, ${counts.join(', ')}`];
  if (cluster.ready && cluster.connected && !all) return lines;
  const add = (text: string): void => void lines.push(`   └  ${printable(text)}`);
  if (cluster.reason !== undefined && cluster.reason !== store.summary) add(cluster.reason);
  add(store.summary);
  add(configText(config));
  if (config.retrieved || cluster.connected) {
    add(
      `synchronization status: nodes=${synced.nodes}, endpoints=${synced.endpoints}, ` +
        `identities=${synced.identities}, services=${synced.services}` +
        (synced.endpointSlices === undefined ? '' : `, endpointslices=${synced.endpointSlices}`),
    );
  }
  if (!cluster.connected && cluster.freshAt !== undefined && cluster.freshAt > 0) {
    add(`facts: last confirmed ${ago(cluster.freshAt, now)}; they stay in force`);
  }
  if (cluster.numQuarantined > 0) add(`refused values: ${cluster.numQuarantined}`);
  return lines;
}

function configText(config: ClusterRecord['config']): string {
  if (!config.retrieved) return 'remote configuration: expected=unknown, retrieved=unknown';
  return (
    `remote configuration: expected=${config.required}, retrieved=${config.retrieved}, ` +
    `cluster-id=${config.clusterId ?? 'unknown'}, kvstoremesh=${config.kvstoremesh}, sync-canaries=${config.syncCanaries}`
  );
}
