import { Gauge } from 'prom-client';
import type { Metrics } from '../../observe/metrics.ts';
import type { ServiceBackendState } from './backends.ts';
import type { ServiceTable } from './service-table.ts';

const STATES: readonly ServiceBackendState[] = ['active', 'draining', 'unhealthy', 'no-answer'];

/** Services on machines: how many, in which states their backends are, and how many have nobody who serves. */
export function exportServices(metrics: Metrics, table: ServiceTable): void {
  const registers = [metrics.registry];
  const services = new Gauge({ name: 'mesh_agent_hub_services', help: 'services on machines', registers });
  const idle = new Gauge({
    name: 'mesh_agent_hub_services_without_backend',
    help: 'services on machines of which no machine gets connections',
    registers,
  });
  const backends = new Gauge({
    name: 'mesh_agent_hub_service_backends',
    help: 'backends of all services on machines by their state; a machine counts for each service and address',
    labelNames: ['state'],
    registers,
  });
  metrics.onScrape(() => {
    const counts = new Map<ServiceBackendState, number>();
    let without = 0;
    for (const { namespace, name } of table.services()) {
      const found = table.counts(`${namespace}/${name}`);
      for (const [state, count] of found) counts.set(state, (counts.get(state) ?? 0) + count);
      if (!found.has('active')) without++;
    }
    services.set(table.size);
    idle.set(without);
    for (const state of STATES) backends.set({ state }, counts.get(state) ?? 0);
  });
}
