import type { RemoteClusterRecord } from '../../hub/clusters/records.ts';
import type { HubStatusRecord } from '../../hub/types.ts';
import { ago, plural } from '../words.ts';

type Line = [label: string, text: string];

/** The machines, by state. Only the hub that leads knows what became of them. */
export function workloadLines({ parts }: HubStatusRecord): Line[] {
  const workloads = factsOf<{ readonly workloads: number }>(parts, 'workloads');
  if (workloads === undefined) return [];
  const machines = factsOf<{
    readonly machines: Readonly<Record<'waiting' | 'registered' | 'expired' | 'revoked', number>>;
    readonly refused: number;
  }>(parts, 'registration');
  const total = plural(workloads.workloads, 'workload');
  if (machines === undefined) return [['Workloads', `${total}; the hub that leads knows their state`]];
  const { registered, waiting, expired, revoked } = machines.machines;
  const states = `${registered} registered, ${waiting} waiting, ${expired} expired, ${revoked} revoked`;
  const refused = machines.refused === 0 ? '' : `; something is refused of ${machines.refused}`;
  return [['Workloads', `${total}: ${states}${refused}`]];
}

/** Each cluster with what is copied of it, and what failed last. */
export function clusterLines({ parts }: HubStatusRecord, now: number): Line[] {
  const facts = factsOf<{ readonly clusters: readonly RemoteClusterRecord[] }>(parts, 'kvstoremesh');
  if (facts === undefined) return [['Clusters', 'the hub that leads knows them']];
  const ready = facts.clusters.filter((cluster) => cluster.ready).length;
  return [
    ['Clusters', `${ready}/${facts.clusters.length} ready`],
    ...facts.clusters.map((cluster): Line => ['', clusterWords(cluster, now)]),
  ];
}

function clusterWords({ name, ready, connected, counts, store }: RemoteClusterRecord, now: number): string {
  const { lastFailure } = store;
  const what = [
    plural(counts.nodes, 'node'),
    plural(counts.ip, 'endpoint'),
    plural(counts.identities, 'identity', 'identities'),
    plural(counts.services, 'service'),
  ];
  const failure =
    lastFailure === null
      ? 'no failure'
      : `last failure ${ago(lastFailure.at, now)}: ${lastFailure.message} (${lastFailure.code})`;
  return `${name}: ${ready ? 'ready' : 'NOT ready'}, ${connected ? 'connected' : 'NOT connected'}, ${what.join(', ')}, ${failure}`;
}

function factsOf<Facts>(parts: HubStatusRecord['parts'], part: string): Facts | undefined {
  const found = parts.find(({ name, state }) => name === part && state === 'running');
  return found === undefined || 'error' in found.facts ? undefined : (found.facts as Facts);
}
