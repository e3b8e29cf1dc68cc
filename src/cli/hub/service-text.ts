import type { HubBackendRecord, HubServiceRecord } from '../../hub/services/records.ts';
import { printable } from '../../observe/printable.ts';
import type { Column } from '../output.ts';
import { TableWriter } from '../table.ts';
import { ago, span } from '../words.ts';
import { labelsLine } from './label-option.ts';

const STATES: Readonly<Record<HubBackendRecord['state'], string>> = {
  active: 'active',
  draining: 'draining',
  unhealthy: 'unhealthy',
  'no-answer': 'no answer',
};

export function serviceColumns(now: number): readonly Column<HubServiceRecord>[] {
  return [
    { heading: 'Name', cell: ({ namespace, name }) => `${namespace}/${name}` },
    { heading: 'Ports', cell: portTexts },
    { heading: 'Address', cell: ({ addresses }) => addresses },
    { heading: 'Scope', cell: scopeText },
    { heading: 'Machine', cell: ({ backends }) => backends.map(({ workload }) => workload) },
    { heading: 'Backend', cell: ({ backends }) => backends.map(({ address }) => address ?? '') },
    { heading: 'State', cell: ({ backends }) => backends.map(({ state }) => STATES[state]) },
    { heading: 'Since', cell: ({ backends }) => backends.map(({ since }) => sinceText(since, now)) },
    { heading: 'Reason', wide: true, cell: ({ backends }) => backends.map(({ reason }) => reason ?? '') },
    { heading: 'Selector', wide: true, cell: ({ selector }) => labelsLine(selector).split(', ') },
    { heading: 'Checks', wide: true, cell: checkTexts },
    { heading: 'Affinity', wide: true, cell: ({ affinity }) => affinity },
  ];
}

/** One service for people: what it is, then each of its machines. */
export function serviceText(record: HubServiceRecord, now: number): string {
  const { namespace, name, addresses, selector, affinity, timing, checks, backends } = record;
  const lines: (readonly [string, string])[] = [
    ['Name', `${namespace}/${name}`],
    ['Scope', scopeText(record)],
    ['Ports', portTexts(record).join(', ')],
    ['Address', addresses.join(', ') || 'none: machines reach it by the addresses that clusters have for it'],
    ['Selector', labelsLine(selector)],
    ['Affinity', affinity],
    ['Checks', checks.length === 0 ? 'none' : checkTexts(record).join(', ')],
    ...(checks.length === 0 ? [] : [['Timing', timingText(timing)] as const]),
    ['Changed', ago(record.changed, now)],
    ['Active', `${backends.filter(({ state }) => state === 'active').length} of ${backends.length}`],
  ];
  const head = lines.map(([heading, value]) => `${`${heading}:`.padEnd(11)}${printable(value)}\n`).join('');
  const rows = backends.map(({ workload, address, state, since, reason }) => [
    workload,
    address ?? '',
    STATES[state],
    sinceText(since, now),
    reason ?? '',
  ]);
  return `${head}\n${new TableWriter(['Machine', 'Address', 'State', 'Since', 'Reason']).write(rows)}`;
}

function scopeText({ global, shared }: HubServiceRecord): string {
  if (!global) return 'machines';
  return shared ? 'global' : 'global, not shared';
}

function portTexts({ ports }: HubServiceRecord): string[] {
  return ports.map(({ name, port, targetPort, protocol }) => {
    const numbers = port === targetPort ? String(port) : `${port}:${targetPort}`;
    return `${name === '' ? '' : `${name}=`}${numbers}/${protocol.toLowerCase()}`;
  });
}

function checkTexts({ checks }: HubServiceRecord): string[] {
  return checks.map((check) => (check.type === 'tcp' ? `tcp:${check.port}` : `http:${check.port}${check.path}`));
}

function timingText({ interval, timeout, rise, fall }: HubServiceRecord['timing']): string {
  const [every, within] = [span(interval * 1000), span(timeout * 1000)];
  return `every ${every}, answer within ${within}; in after ${rise} in a row, out after ${fall}`;
}

function sinceText(since: number | null, now: number): string {
  return since === null ? '' : ago(since, now);
}
