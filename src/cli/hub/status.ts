import type { Command } from 'commander';
import { askRecord } from '../../api/ask.ts';
import type { KubernetesFacts } from '../../hub/kubernetes/records.ts';
import type { ServicesFacts } from '../../hub/services/records.ts';
import type { HubStatusRecord } from '../../hub/types.ts';
import { printable } from '../../observe/printable.ts';
import { command } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { writeRecord } from '../output.ts';
import { ago, plural, span } from '../words.ts';
import { hubSocketOf } from './place.ts';
import { clusterLines, workloadLines } from './status-fleet.ts';

export function hubStatusCommand(): Command {
  return command({
    name: 'status',
    summary: 'Show how the hub is: what is wrong first, then part by part',
    details: 'Exit code: 0 fine, 3 the hub does not run or cannot be reached, 4 degraded.',
    examples: [
      ['hub status', 'the overview'],
      ['hub status -o json', 'for scripts'],
    ],
    shared: ['socket', 'output'],
    async run(call) {
      const { terminal, options } = call;
      const record = await askRecord<HubStatusRecord>({ socket: hubSocketOf(call), whom: 'hub' }, '/v1/status');
      const table = (): string => hubStatusText(record, Date.now());
      await writeRecord({ terminal, format: options.output, record, table });
      return record.state === 'ok' ? EXIT.ok : EXIT.degraded;
    },
  });
}

export function hubStatusText(status: HubStatusRecord, now: number): string {
  const lines: [string, string][] = [];
  const { cluster, leader, store, etcd } = status;
  for (const { severity, code, subject, text } of status.health)
    lines.push([severity === 'error' ? 'Error' : 'Warning', `${subject}: ${text} (${code})`]);
  lines.push(['Hub', `${status.state}, version ${status.version}, for ${span(now - status.since)}`]);
  lines.push(['Cluster', `${cluster.name}, id ${cluster.id}`]);
  lines.push(['Names', status.names.join(', ')]);
  const here = leader?.here === true ? ' (this hub)' : '';
  lines.push(['Leader', leader === null ? 'none' : `${leader.id}${here}, for ${span(now - leader.since)}`]);
  lines.push(['Store', `${store.state}: ${store.summary}`]);
  lines.push(['etcd', etcdWords(etcd)]);
  for (const member of etcd.members)
    lines.push([
      '',
      `${member.endpoint}, version ${member.version}, ${mib(member.sizeInUse)} used of ${mib(member.size)}, revision ${member.revision}`,
    ]);
  const { guard } = status;
  if (guard !== null)
    lines.push([
      'Guard',
      `${guard.listen}, ${guard.connections} connections of ${guard.users} users, ${guard.refused} requests refused`,
    ]);
  lines.push(...workloadLines(status), ...clusterLines(status, now));
  for (const { name, notAfter } of status.certificates)
    lines.push(['Certificate', `${name} until ${new Date(notAfter).toISOString()}`]);
  lines.push(['CA hash', status.caHash]);
  for (const { name, where, state } of status.parts) lines.push(['Part', `${name} (${where}): ${state}`]);
  lines.push(...serviceLines(status), ...kubernetesLines(status, now));
  return lines
    .map(([label, text]) => `${`${label}${label === '' ? '' : ':'}`.padEnd(13)} ${printable(text)}\n`)
    .join('');
}

function etcdWords({ own, process, quota, alarms }: HubStatusRecord['etcd']): string {
  const alarmed = alarms.length === 0 ? '' : `, alarms: ${alarms.join(', ')}`;
  if (!own || process === null) return `given${alarmed}`;
  const again = process.starts > 1 ? `, started ${process.starts} times` : '';
  return `own, ${process.state}${process.pid === null ? '' : `, pid ${process.pid}`}${again}, quota ${mib(quota ?? 0)}${alarmed}`;
}

function mib(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

/** Of services on machines, when there are any. */
function serviceLines({ parts }: HubStatusRecord): [string, string][] {
  const found = parts.find(({ name }) => name === 'services')?.facts as ServicesFacts | undefined;
  if (found === undefined || !(found.services > 0)) return [];
  const { services, backends, active } = found;
  return [
    ['Services', `${plural(services, 'service')} on machines, ${active} of ${plural(backends, 'backend')} active`],
  ];
}

/** Only in the hub that leads, when it follows a cluster. */
function kubernetesLines({ parts }: HubStatusRecord, now: number): [string, string][] {
  const found = parts.find(({ name }) => name === 'kubernetes')?.facts;
  if (found === undefined || !('config' in found) || found.config === null) return [];
  const facts = found as KubernetesFacts;
  const { connected, lastSync, policies, workloads, resources, refusedCount, conflictCount } = facts;
  const server = facts.server ?? facts.config;
  const synced = lastSync === null ? 'never in step' : `in step ${ago(lastSync, now)}`;
  const lines: [string, string][] = [
    ['Kubernetes', `${connected ? 'connected' : 'NOT connected'} to ${server}, ${synced}`],
    [
      '',
      `${plural(policies, 'policy', 'policies')} and ${plural(workloads, 'workload')} are from there, ${refusedCount} objects refused, ${conflictCount} also by hand`,
    ],
  ];
  for (const { kind, state, objects, error } of resources)
    if (state === 'missing')
      lines.push(['', `Note: ${kind} is not known there (CRD not installed): nothing is changed`]);
    else lines.push(['', `${kind}: ${error ?? state}, ${objects} objects`]);
  return lines;
}
