import { Gauge } from 'prom-client';
import type { Metrics } from '../../observe/metrics.ts';
import type { HubFacts } from './hub-facts.ts';
import { type WorkloadState, workloadRecord } from './records.ts';

const STATES: readonly WorkloadState[] = ['never-seen', 'waiting', 'registered', 'expired', 'revoked'];

/** Workloads by what became of their machines, and those of which something is refused. */
export function exportWorkloads(metrics: Metrics, facts: HubFacts): void {
  const registers = [metrics.registry];
  const workloads = new Gauge({
    name: 'mesh_agent_hub_workloads',
    help: 'workloads by the state of their machines',
    labelNames: ['state'],
    registers,
  });
  const refused = new Gauge({
    name: 'mesh_agent_hub_workloads_refused',
    help: 'workloads whose machines report or claim what they must not have',
    registers,
  });
  const unreachable = new Gauge({
    name: 'mesh_agent_hub_workloads_unreachable',
    help: 'workloads whose machines are without a connection to any hub, for longer than they may',
    registers,
  });
  metrics.onScrape(() => {
    const counts = new Map<WorkloadState, number>();
    let [wrong, missing] = [0, 0];
    for (const workload of facts.book.values()) {
      const record = workloadRecord(workload, facts.records.get(workload.name));
      counts.set(record.state, (counts.get(record.state) ?? 0) + 1);
      if (record.refused.length + record.claims.length > 0) wrong++;
      if (record.unreachable !== null) missing++;
    }
    for (const state of STATES) workloads.set({ state }, counts.get(state) ?? 0);
    refused.set(wrong);
    unreachable.set(missing);
  });
}
