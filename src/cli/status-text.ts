import type { CertificateRecord, StatusRecord } from '../api/types.ts';
import { printable } from '../observe/printable.ts';
import { BACKEND_STATES } from '../service/result.ts';
import { padCells } from './cells.ts';
import { clustermeshText } from './clustermesh-text.ts';
import { type Concern, concernsOf } from './concerns.ts';
import { clusterHealthText } from './health-text.ts';
import { type Paint, painter, type Tone } from './paint.ts';
import { ago, plural, span } from './words.ts';

export interface StatusTextOptions {
  readonly now: number;
  readonly color: boolean;
  /** Every line of every cluster, devices, what always passes, refused values. */
  readonly verbose: boolean;
  readonly allClusters: boolean;
}

const NAME_WIDTH = 16;
const SHOWN_QUARANTINE = 20;

/** The whole status for people: what is wrong first, with its remedy, then part by part. */
export function statusText(status: StatusRecord, options: StatusTextOptions): string {
  const paint = painter(options.color);
  const lines = [headline(status, paint), ''];
  const concerns = concernsOf(status);
  for (const concern of concerns) lines.push(...concernLines(concern, options.now, paint));
  if (concerns.length > 0) lines.push('');
  const add = (name: string, value: string, below: readonly string[] = []): void => {
    lines.push(`${paint(padCells(`${name}:`, NAME_WIDTH), 'bold')}${printable(value)}`, ...below);
  };
  const { agent } = status;
  add('Agent', `${agent.version} (${agent.commit}), pid ${agent.pid}, up ${span(options.now - agent.startedAt)}`);
  add('KVStore', storeValue(status, options.now));
  add('Registration', registrationValue(status, options.now));
  if (status.certificate !== undefined) add('Certificate', certificateValue(status.certificate, options.now));
  const mesh = clustermeshText(status, { now: options.now, all: options.verbose || options.allClusters });
  add(
    'ClusterMesh',
    mesh.head,
    mesh.lines.map((line) => paintCluster(line, paint)),
  );
  add('Facts', factsValue(status));
  if (status.services !== undefined) add('Services', servicesValue(status.services));
  if (status.serving !== undefined) add('Serving', servingValue(status.serving, options.now));
  if (status.dns !== undefined) add('DNS', dnsValue(status.dns));
  add('Policy', policyValue(status));
  add('Datapath', datapathValue(status, options.now));
  if (status.lastGood !== undefined && status.lastGood.enforced !== 'live')
    add('Last good', lastGoodValue(status.lastGood, options.now));
  add('Routing', routingValue(status));
  if (status.nodeHealth !== undefined) add('Cluster health', clusterHealthText(status.nodeHealth));
  if (options.verbose) addDetails(status, options.now, add);
  return `${lines.join('\n')}\n`;
}

/** One line, for scripts and prompts. */
export function briefText(status: StatusRecord): string {
  const [first, ...rest] = concernsOf(status);
  if (status.state === 'ok') return 'OK\n';
  const reason = first === undefined ? '' : `: ${printable(`${first.subject}: ${first.text}`)}`;
  return `${status.state}${reason}${rest.length === 0 ? '' : ` (and ${rest.length} more)`}\n`;
}

function headline(status: StatusRecord, paint: Paint): string {
  const { machine, state } = status;
  const words: Record<StatusRecord['state'], readonly [string, Tone]> = {
    ok: ['OK', 'green'],
    degraded: ['DEGRADED', 'yellow'],
    'not-joined': ['NOT JOINED', 'red'],
  };
  const [word, tone] = words[state];
  const where = machine.cluster === undefined ? '' : ` in ${machine.cluster.name} (id ${machine.cluster.id})`;
  const who = machine.identity === undefined ? '' : `, identity ${machine.identity}`;
  const addresses = [machine.ipv4, machine.ipv6].filter((each) => each !== undefined);
  const at = addresses.length === 0 ? '' : `, ${addresses.join(' ')}`;
  return `${paint(word, tone)}  ${printable(`${machine.name}${where}${who}${at}`)}`;
}

function concernLines(concern: Concern, now: number, paint: Paint): string[] {
  const tones: Record<Concern['severity'], Tone> = { error: 'red', warning: 'yellow', waiting: 'yellow' };
  const since = concern.since === undefined || concern.since <= 0 ? '' : `, for ${span(now - concern.since)}`;
  const code = concern.code === undefined ? '' : concern.code;
  const tail = `${code}${since}`.replace(/^, /, '');
  const first = `${printable(`${concern.subject}: ${concern.text}`)}${tail === '' ? '' : paint(` (${tail})`, 'dim')}`;
  const lines = [`  ${paint(concern.severity.toUpperCase().padEnd(7), tones[concern.severity])}  ${first}`];
  const below = (label: string, text: string | undefined): void => {
    if (text !== undefined && text !== '') lines.push(`           ${paint(label.padEnd(8), 'dim')}${printable(text)}`);
  };
  below('place:', concern.place);
  below('remedy:', concern.remedy);
  return lines;
}

function paintCluster(line: string, paint: Paint): string {
  return line.includes(': not-ready') ? paint(line, 'yellow') : line;
}

function lastGoodValue(lastGood: NonNullable<StatusRecord['lastGood']>, now: number): string {
  const age = span(Math.max(0, now - lastGood.confirmedAt));
  return lastGood.enforced === 'snapshot'
    ? `the snapshot is in force, with facts ${age} old, until the stores have been seen`
    : `the rules of an earlier run are in force, with facts up to ${age} old, until the stores have been seen`;
}

function servingValue({ drained, services }: NonNullable<StatusRecord['serving']>, now: number): string {
  const failing = services.filter(({ state }) => state === 'unhealthy');
  const parts = [
    services.length === 0 ? 'nothing' : services.map(({ service }) => service).join(', '),
    ...(failing.length === 0 ? [] : [`${failing.length} unhealthy`]),
    ...(drained === undefined ? [] : [`drained ${span(now - drained)} ago: no new connections`]),
  ];
  return parts.join('; ');
}

const LED = {
  socket: 'led at the socket',
  packet: 'led by packets',
  both: 'led at the socket and by packets',
} as const;

function servicesValue({
  frontends,
  led,
  backends,
  withoutBackend,
  lostClusters,
}: NonNullable<StatusRecord['services']>): string {
  const others = BACKEND_STATES.slice(1)
    .filter((state) => backends[state] > 0)
    .map((state) => `, ${backends[state]} ${state}`);
  const without = withoutBackend === 0 ? '' : `; ${plural(withoutBackend, 'service')} without a backend`;
  const lost = lostClusters.length === 0 ? '' : `; lost: ${lostClusters.join(', ')}`;
  const reason = led?.reason === undefined ? '' : ` (${led.reason})`;
  const where = led === undefined ? '' : `; ${LED[led.at]}${reason}`;
  return `${plural(frontends, 'frontend')}, ${backends.active} active backends${others.join('')}${without}${lost}${where}`;
}

function dnsValue({ listen, zones, serving, resolved, messages }: NonNullable<StatusRecord['dns']>): string {
  const words: Readonly<Record<typeof resolved, string>> = {
    registered: 'systemd-resolved asks here',
    absent: `no systemd-resolved: your resolver is to ask ${listen} for them`,
    elsewhere: `systemd-resolved serves another network namespace: your resolver is to ask ${listen} for them`,
    failed: 'systemd-resolved DOES NOT ask here',
    off: 'systemd-resolved is left alone',
  };
  const { limited = 0, ...others } = messages;
  const all = Object.values(others).reduce((sum, count) => sum + count, 0);
  const dropped = limited === 0 ? '' : `, ${limited} too many`;
  const state = serving
    ? `${listen}; ${words[resolved]}; ${plural(all, 'message')}${dropped}`
    : `NOT SERVED at ${listen}`;
  return `${zones.join(', ')}: ${state}`;
}

function storeValue({ kvstore }: StatusRecord, now: number): string {
  const state = kvstore.state === 'connected' ? 'Ok' : kvstore.state === 'closed' ? 'Disabled' : 'Failure';
  const beat = kvstore.lastHeartbeat === undefined ? '' : `, heartbeat ${ago(kvstore.lastHeartbeat, now)}`;
  return `${state}   ${kvstore.summary}${beat}`;
}

function registrationValue({ registration }: StatusRecord, now: number): string {
  if (registration.state === 'registered') return `registered ${ago(registration.since, now)}, key ${registration.key}`;
  return registration.waitingFor === undefined
    ? registration.state
    : `${registration.state}: ${registration.waitingFor}`;
}

function certificateValue({ notAfter, renewAt, lastError }: CertificateRecord, now: number): string {
  const until = `until ${new Date(notAfter).toISOString()}`;
  if (notAfter <= now) return `EXPIRED ${ago(notAfter, now)}`;
  return lastError === undefined
    ? `${until}, renewed in ${span(renewAt - now)}`
    : `${until}, NOT RENEWED: ${lastError}`;
}

function factsValue({ counts }: StatusRecord): string {
  const refused = counts.quarantined === 0 ? '' : `; ${plural(counts.quarantined, 'refused value')} not in force`;
  return (
    `${plural(counts.nodes, 'node')}, ${plural(counts.endpoints, 'endpoint')}, ` +
    `${plural(counts.identities, 'identity', 'identities')}, ${plural(counts.services, 'service')}, ` +
    `${plural(counts.ipcache, 'ipcache entry', 'ipcache entries')}${refused}`
  );
}

function policyValue({ policy }: StatusRecord): string {
  const mode = policy.mode === 'default' ? '' : `, enforcement ${policy.mode}`;
  const invalid = policy.invalid === 0 ? '' : `, ${policy.invalid} invalid`;
  const shadowed = policy.shadowed === 0 ? '' : `, ${policy.shadowed} shadowed`;
  const held = policy.heldBack === 0 ? '' : `, ${plural(policy.heldBack, 'entry', 'entries')} held back`;
  return (
    `ingress ${policy.ingress}, egress ${policy.egress}; revision ${policy.revision}, ` +
    `${policy.selecting} of ${plural(policy.policies, 'policy', 'policies')} select this machine${mode}${invalid}${shadowed}${held}`
  );
}

function datapathValue({ datapath }: StatusRecord, now: number): string {
  if (datapath.name === 'none') return 'none: nothing is enforced';
  const { entries, denied } = datapath;
  const lag = datapath.lagMs > 1000 ? `, ${span(datapath.lagMs)} behind` : '';
  const applied = datapath.applied ? `applied ${ago(datapath.appliedAt, now)}${lag}` : 'NOT APPLIED';
  const healed = datapath.healed === 0 ? '' : `; ${plural(datapath.healed, 'foreign change')} undone`;
  return (
    `${datapath.name}, ${applied}; ${entries.addresses} addresses, ${entries.prefixes} prefixes, ` +
    `${entries.policyRows} policy rows in ${plural(entries.classes, 'class', 'classes')}; ` +
    `denied ${denied.ingress.packets} packets in, ${denied.egress.packets} out${healed}`
  );
}

function routingValue({ routing }: StatusRecord): string {
  const device = routing.device === undefined ? '' : ` over ${routing.device}`;
  const mtu = routing.mtu === undefined ? '' : ` (mtu ${routing.mtu})`;
  const error = routing.error === undefined ? '' : `; ${routing.error.message} (${routing.error.code})`;
  return `${routing.mode}${device}${mtu}, ${plural(routing.routes, 'route')}${error}`;
}

function addDetails(
  status: StatusRecord,
  now: number,
  add: (name: string, value: string, below?: readonly string[]) => void,
): void {
  const below = (text: string): string => `   ${printable(text)}`;
  const { configuration } = status;
  if (configuration !== undefined)
    add('Configuration', `read ${ago(configuration.readAt, now)}`, configuration.files.map(below));
  add('Labels', plural(status.machine.labels.length, 'label'), status.machine.labels.map(below));
  if (status.machine.ranges.length > 0) add('Ranges', status.machine.ranges.join(', '));
  add(
    'Devices',
    plural(status.devices.length, 'device'),
    status.devices.map((each) =>
      below(
        `${each.name}: ${each.role}, ${each.up ? 'up' : 'down'}, mtu ${each.mtu}, ${each.addresses.join(' ')} (${each.reason})`,
      ),
    ),
  );
  add(
    'Always allowed',
    plural(status.allowances.length, 'flow'),
    status.allowances.map((each) => below(`${each.direction}: ${each.what} (${each.why})`)),
  );
  if (status.quarantine.length === 0) return;
  const lines = status.quarantine
    .slice(0, SHOWN_QUARANTINE)
    .map((each) => below(`${each.cluster}: ${each.key}: ${each.reason} (since ${ago(each.since, now)})`));
  const more = status.quarantine.length - SHOWN_QUARANTINE;
  if (more > 0) lines.push(below(`and ${more} more`));
  add('Refused values', String(status.counts.quarantined), lines);
}
