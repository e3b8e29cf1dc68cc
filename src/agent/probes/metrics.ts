import { Gauge, Histogram } from 'prom-client';
import type { NodeHealthRecord } from '../../api/node-health-types.ts';
import type { Metrics } from '../../observe/metrics.ts';
import type { Finding, ProbeKind } from './results.ts';
import type { Target } from './targets.ts';

export interface ProbeMetricsOptions {
  readonly metrics: Metrics;
  /** This machine. */
  readonly source: () => { readonly cluster: string; readonly name: string };
  readonly nodes: () => Iterable<NodeHealthRecord>;
}

const SOURCE = ['source_cluster', 'source_node_name'] as const;
const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];
const STATUSES = ['reachable', 'unreachable', 'unknown'] as const;
type Status = (typeof STATUSES)[number];

/**
 * Cilium's metrics of node health. Nodes are counted, not named: the number of series does not grow with the mesh.
 * @returns takes in each finding
 */
export function exportProbes(
  options: ProbeMetricsOptions,
): (target: Target, kind: ProbeKind, finding: Finding) => void {
  const registers = [options.metrics.registry];
  const unreachable = new Gauge({
    name: 'cilium_unreachable_nodes',
    help: 'nodes that do not answer probes',
    registers,
  });
  const endpoints = new Gauge({
    name: 'cilium_unreachable_health_endpoints',
    help: 'health endpoints of nodes that do not answer probes',
    registers,
  });
  const status = new Gauge({
    name: 'cilium_node_health_connectivity_status',
    help: 'nodes, and their health endpoints, by the outcome of the last probes',
    labelNames: [...SOURCE, 'type', 'status'] as const,
    registers,
  });
  const latency = new Histogram({
    name: 'cilium_node_health_connectivity_latency_seconds',
    help: 'time to the answer of a probe',
    labelNames: [...SOURCE, 'type', 'address_type', 'protocol'] as const,
    buckets: SECONDS,
    registers,
  });
  const labels = () => {
    const { cluster, name } = options.source();
    return { source_cluster: cluster, source_node_name: name };
  };
  options.metrics.onScrape(() => {
    const counts = { node: emptyCounts(), endpoint: emptyCounts() };
    for (const { addresses } of options.nodes()) {
      for (const type of ['node', 'endpoint'] as const) {
        const own = addresses.filter(({ kind, primary }) => primary && kind === (type === 'node' ? 'node' : 'health'));
        if (own.length > 0) counts[type][statusOf(own)]++;
      }
    }
    unreachable.set(counts.node.unreachable);
    endpoints.set(counts.endpoint.unreachable);
    status.reset();
    for (const type of ['node', 'endpoint'] as const)
      for (const each of STATUSES) status.set({ ...labels(), type, status: each }, counts[type][each]);
  });
  return (target, kind, finding) => {
    if (finding.state !== 'ok') return;
    const type = target.kind === 'health' ? 'endpoint' : 'node';
    const address_type = target.primary ? 'primary' : 'secondary';
    latency.observe({ ...labels(), type, address_type, protocol: kind }, finding.latencyMs / 1000);
  };
}

function emptyCounts(): Record<Status, number> {
  return { reachable: 0, unreachable: 0, unknown: 0 };
}

/** What our own policy keeps us from asking is not known. */
function statusOf(addresses: NodeHealthRecord['addresses']): Status {
  const states = addresses.flatMap(({ icmp, http }) => [icmp.state, http?.state]);
  if (states.includes('failed')) return 'unreachable';
  return states.every((state) => state === 'ok' || state === undefined) ? 'reachable' : 'unknown';
}
