import { Gauge } from 'prom-client';
import { exportStatus } from '../api/status-metrics.ts';
import type { StatusRecord } from '../api/types.ts';
import { conntrackUse } from '../host/conntrack.ts';
import { exportStoreRequests } from '../kvstore/request-metrics.ts';
import type { Metrics } from '../observe/metrics.ts';

/** All that an agent exports besides what its parts measure themselves. @returns ends it */
export function exportAgent(metrics: Metrics, status: () => StatusRecord): () => void {
  exportStatus(metrics, status);
  exportConnections(metrics);
  return exportStoreRequests(metrics);
}

/** The one table of the data path that has a limit: the others grow as they fill. */
function exportConnections(metrics: Metrics): void {
  const registers = [metrics.registry];
  const pressure = new Gauge({
    name: 'cilium_bpf_map_pressure',
    help: 'how full a table of the kernel is, from 0 to 1; conntrack alone has a limit',
    labelNames: ['map_name'],
    registers,
  });
  const entries = new Gauge({
    name: 'mesh_agent_conntrack_entries',
    help: 'connections that the kernel tracks, all programs together',
    registers,
  });
  metrics.onScrape(() => {
    const use = conntrackUse();
    pressure.reset();
    entries.set(use?.entries ?? 0);
    if (use !== undefined) pressure.set({ map_name: 'conntrack' }, use.entries / use.max);
  });
}
