import type {
  AddressHealthRecord,
  ConnectivityRecord,
  NodeHealthRecord,
  NodeHealthSummary,
} from '../api/node-health-types.ts';
import { printable } from '../observe/printable.ts';
import { ago } from './words.ts';

/** `3/3 reachable`, with what is not. */
export function reachableText({ nodes, reachable, unreachable, blocked, unknown }: NodeHealthSummary): string {
  const others = [
    ...(unreachable > 0 ? [`${unreachable} unreachable`] : []),
    ...(blocked > 0 ? [`${blocked} blocked by policy`] : []),
    ...(unknown > 0 ? [`${unknown} not known`] : []),
  ];
  return `${reachable}/${nodes} reachable${others.length === 0 ? '' : `, ${others.join(', ')}`}`;
}

/** The line of `status`. */
export function clusterHealthText(summary: NodeHealthSummary): string {
  const at = summary.probedAt === undefined ? 'not probed yet' : timeText(summary.probedAt);
  const refuses = summary.refuses.length === 0 ? '' : `; policy refuses ${summary.refuses.join('; ')}`;
  return `${reachableText(summary)} (${at})${refuses}`;
}

/** What stands before the nodes, in the shape of `cilium-health status`. */
export function healthHead(summary: NodeHealthSummary): string {
  const answers = summary.answersOn.length === 0 ? 'none' : summary.answersOn.join(', ');
  const lines = [
    `Probe time:       ${summary.probedAt === undefined ? 'never' : timeText(summary.probedAt)}`,
    `Cluster health:   ${reachableText(summary)}`,
    `Answers probes:   on ${answers}`,
    ...summary.refuses.map((each) => `Refuses probes:   ${each}`),
    'Nodes:',
  ];
  return `${lines.map((line) => printable(line)).join('\n')}\n`;
}

/** One node, in the shape of `cilium-health status`. */
export function nodeText(node: NodeHealthRecord, now: number): string {
  const lines = [`  ${node.cluster}/${node.name}:${node.state === 'reachable' ? '' : ` ${node.state}`}`];
  for (const address of node.addresses) {
    const { icmp, http } = address;
    lines.push(`    ${headingOf(address)}:`, `      ICMP to stack:   ${connectivityText(icmp, now)}`);
    if (http !== undefined) lines.push(`      HTTP to agent:   ${connectivityText(http, now)}`);
  }
  return `${lines.map((line) => printable(line)).join('\n')}\n`;
}

/** In one cell: `ok 1.2ms`, `failed: no answer`. */
export function connectivityCell(records: readonly (ConnectivityRecord | undefined)[]): string {
  const given = records.filter((each) => each !== undefined);
  const worst = given.find(({ state }) => state !== 'ok');
  if (worst !== undefined) return `${worst.state}: ${worst.reason ?? ''}`;
  const slowest = Math.max(...given.map(({ latencyMs = 0 }) => latencyMs));
  return given.length === 0 ? '' : `ok ${milliseconds(slowest)}`;
}

function headingOf({ kind, ip, path, primary }: AddressHealthRecord): string {
  const what = { node: 'Host', health: 'Endpoint', router: 'Router' }[kind];
  const how = path === 'tunnel' ? ' through the tunnel' : '';
  const more = kind === 'node' && !primary ? ' (secondary)' : '';
  return `${what} connectivity to ${ip}${how}${more}`;
}

function connectivityText({ state, latencyMs, reason, okAt }: ConnectivityRecord, now: number): string {
  if (state === 'ok') return `OK, RTT=${milliseconds(latencyMs ?? 0)}`;
  const last = okAt === undefined ? '' : `, last OK ${ago(okAt, now)}`;
  const word = state === 'failed' ? 'Connection failed' : state === 'blocked' ? 'Blocked' : 'Unknown';
  return `${word}: ${reason ?? ''}${last}`;
}

function milliseconds(value: number): string {
  return value >= 100 ? `${Math.round(value)}ms` : `${value.toFixed(2)}ms`;
}

function timeText(at: number): string {
  return new Date(at).toISOString().replace(/\.[0-9]+Z$/, 'Z');
}
