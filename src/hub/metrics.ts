import { Gauge } from 'prom-client';
import type { Metrics } from '../observe/metrics.ts';
import type { HubStatusRecord } from './types.ts';

/** The facts of `hub status` as metrics. */
export function exportHub(metrics: Metrics, status: () => HubStatusRecord): void {
  const registers = [metrics.registry];
  const gauge = <Label extends string = never>(name: string, help: string, ...labelNames: Label[]) =>
    new Gauge({ name: `mesh_agent_hub_${name}`, help, labelNames, registers });
  const leading = gauge('leading', 'whether this hub leads');
  const connected = gauge('store_connected', 'whether the store is connected');
  const size = gauge('etcd_size_bytes', 'size of the database of a member', 'endpoint');
  const used = gauge('etcd_used_bytes', 'what is used of it', 'endpoint');
  const starts = gauge('etcd_starts', "how often the hub's own etcd was started");
  const expiry = gauge('certificate_expiry_seconds', 'when a certificate ends, seconds since the epoch', 'name');
  const troubles = gauge('troubles', 'what is wrong now', 'severity');
  metrics.onScrape(() => {
    const now = status();
    leading.set(now.leader?.here === true ? 1 : 0);
    connected.set(now.store.state === 'connected' ? 1 : 0);
    for (const member of now.etcd.members) {
      size.set({ endpoint: member.endpoint }, member.size);
      used.set({ endpoint: member.endpoint }, member.sizeInUse);
    }
    starts.set(now.etcd.process?.starts ?? 0);
    for (const { name, notAfter } of now.certificates) expiry.set({ name }, notAfter / 1000);
    for (const severity of ['error', 'warning'])
      troubles.set({ severity }, now.health.filter((record) => record.severity === severity).length);
  });
}
