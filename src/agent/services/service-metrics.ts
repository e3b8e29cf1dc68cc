import { Gauge } from 'prom-client';
import type { Metrics } from '../../observe/metrics.ts';
import type { Tally } from '../../service/tally.ts';
import type { BackendChecks } from './backend-checks.ts';

/** Services that are named in metrics. A mesh may have ten thousand, and every machine of it exports. */
export const MAX_NAMED_SERVICES = 200;

export interface ServiceMeasures {
  readonly tallies: () => Iterable<Tally>;
  readonly checks: () => BackendChecks['status'];
}

/** Metrics by service: of all, or of as many as may be named, those with a trouble first. */
export function exportServices(metrics: Metrics, { tallies, checks }: ServiceMeasures): void {
  const registers = [metrics.registry];
  const serving = new Gauge({
    name: 'mesh_agent_service_serving_backends',
    help: 'backends of a service that get new connections; at most 200 services, those in trouble first',
    labelNames: ['service', 'scope'],
    registers,
  });
  const states = new Gauge({
    name: 'mesh_agent_service_backends_by_service',
    help: 'backends of the same services by state',
    labelNames: ['service', 'scope', 'state'],
    registers,
  });
  const unnamed = new Gauge({
    name: 'mesh_agent_services_unnamed',
    help: 'services that metrics by service leave out, because there are too many',
    registers,
  });
  const checked = new Gauge({
    name: 'mesh_agent_service_checks',
    help: 'backends that are checked, that are too many to be checked, and that wait for their turn',
    labelNames: ['state'],
    registers,
  });
  metrics.onScrape(() => {
    const all = [...tallies()];
    serving.reset();
    states.reset();
    unnamed.set(Math.max(0, all.length - MAX_NAMED_SERVICES));
    for (const { name, global, serving: count, backends } of namedOf(all)) {
      const labels = { service: name, scope: global ? 'global' : 'own' };
      serving.set(labels, count);
      for (const [state, number] of Object.entries(backends)) if (number > 0) states.set({ ...labels, state }, number);
    }
    for (const [state, count] of Object.entries(checks())) checked.set({ state }, count);
  });
}

function namedOf(all: readonly Tally[]): readonly Tally[] {
  if (all.length <= MAX_NAMED_SERVICES) return all;
  const rank = ({ serving, backends }: Tally): number => {
    const { unhealthy, unreachable, refused } = backends;
    return serving === 0 ? 0 : unhealthy + unreachable + refused > 0 ? 1 : 2;
  };
  return all
    .map((tally) => ({ tally, rank: rank(tally) }))
    .sort((a, b) => a.rank - b.rank || (a.tally.name < b.tally.name ? -1 : 1))
    .slice(0, MAX_NAMED_SERVICES)
    .map(({ tally }) => tally);
}
