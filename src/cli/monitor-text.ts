import type { FlowEndRecord, FlowPolicyRecord, FlowRecord, FlowVerdict, LostSource } from '../api/flow-types.ts';
import { printable } from '../observe/printable.ts';
import { cellWidth } from './cells.ts';
import { type Paint, painter, type Tone } from './paint.ts';
import { plural } from './words.ts';

export interface MonitorStyle {
  readonly color: boolean;
  /** Cells of a line; undefined when it goes to no terminal. */
  readonly columns: number | undefined;
  /** Every label and every rule. */
  readonly wide: boolean;
  /** Options that lead to the agent, for commands to be typed. */
  readonly place: readonly string[];
}

const PLAIN: MonitorStyle = { color: false, columns: undefined, wide: false, place: [] };
const INDENT = 6;
const MAX_COLUMNS = 120;
const SHOWN_LABELS = 3;

const VERDICTS: Readonly<Record<FlowVerdict, readonly [word: string, tone: Tone]>> = {
  DROPPED: ['DROPPED', 'red'],
  AUDIT: ['AUDIT', 'yellow'],
  FORWARDED: ['ALLOWED', 'green'],
};

/** A block of lines: the packet, who the ends are, what decided, and for what is dropped the command that explains it. */
export function flowText(flow: FlowRecord, style: MonitorStyle): string {
  const paint = painter(style.color);
  const [word, tone] = VERDICTS[flow.verdict];
  const head = [
    [timeText(flow.time), (text: string) => paint(text, 'dim')],
    [word.padEnd(7), (text: string) => paint(text, tone)],
    [flow.direction === 'ingress' ? 'in ' : 'out'],
    [`${flow.protocol}${flow.reply ? ' answer' : ''}`],
    [endText(flow.source, flow.sourcePort)],
    [`> ${endText(flow.destination, flow.destinationPort)}`],
    [detailText(flow)],
  ] as const;
  const lines = [wrap(head, style)];
  const peer = flow.direction === 'ingress' ? flow.source : flow.destination;
  lines.push(wrap([[flow.direction === 'ingress' ? 'from' : 'to'], ...whoPieces(peer, style.wide)], style, INDENT));
  lines.push(wrap(whyPieces(flow), style, INDENT));
  if (flow.verdict !== 'FORWARDED') lines.push(`${' '.repeat(INDENT)}${paint(commandText(flow, style), 'bold')}`);
  return `${lines.join('\n')}\n`;
}

type Piece = readonly [text: string, paint?: (text: string) => string];

/** Pieces beside each other, and below where the line is full. */
function wrap(pieces: readonly Piece[], { columns }: MonitorStyle, indent = 0): string {
  const width = columns === undefined ? Number.POSITIVE_INFINITY : Math.min(columns, MAX_COLUMNS);
  let text = ' '.repeat(indent);
  let used = indent;
  for (const [raw, paint] of pieces) {
    const piece = printable(raw);
    if (piece === '') continue;
    const size = cellWidth(piece);
    const first = used === indent;
    if (!first && used + 1 + size > width) {
      text += `\n${' '.repeat(INDENT)}`;
      used = INDENT;
    } else if (!first) {
      text += ' ';
      used++;
    }
    text += paint === undefined ? piece : paint(piece);
    used += size;
  }
  return text;
}

function timeText(time: number): string {
  const at = new Date(time);
  const two = (value: number): string => String(value).padStart(2, '0');
  const clock = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(':');
  return `${clock}.${String(at.getMilliseconds()).padStart(3, '0')}`;
}

function endText({ address }: FlowEndRecord, port: number | undefined): string {
  if (port === undefined) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** TCP flags, or type and code of ICMP. */
function detailText({ tcpFlags, icmp, fragment }: FlowRecord): string {
  if (fragment === true) return 'fragment';
  if (tcpFlags !== undefined) return tcpFlags.join(',');
  return icmp === undefined ? '' : `type ${icmp.type} code ${icmp.code}`;
}

function whoPieces(end: FlowEndRecord, wide: boolean): Piece[] {
  const { identity, labels, cluster, node, service, names } = end;
  const shown = wide ? labels : labels.filter((label) => !label.includes('io.cilium.k8s.')).slice(0, SHOWN_LABELS);
  const more = labels.length - shown.length;
  return [
    [`identity ${identity}`],
    ...shown.map((label): Piece => [label]),
    ...(more > 0 && wide ? [[`+${more}`] as const] : []),
    ...(cluster === undefined ? [] : [[`cluster ${cluster}`] as const]),
    ...(node === undefined ? [] : [[`node ${node}`] as const]),
    ...(service === undefined ? [] : [[`service ${service}`] as const]),
    ...(names === undefined ? [] : [[`name ${names.slice(0, SHOWN_LABELS).join(', ')}`] as const]),
  ];
}

const REASONS: Readonly<Record<FlowPolicyRecord['reason'], string>> = {
  always: 'it always passes',
  inside: 'it stays inside the machine',
  'not-enforced': 'no policy judges this direction',
  'denied-by-rule': 'a rule denies it',
  'allowed-by-rule': 'a rule allows it',
  'no-default-deny': 'no rule denies it, and none asks for default deny',
  'default-deny': 'no rule allows it',
  'needs-authentication': 'a rule asks for authentication, which is not done here',
  'by-port': 'it depends on the port',
  withdrawn: 'the connection was allowed, and is not any more',
  'unknown-sender': 'a tunnel packet of no known node',
  'spoofed-tunnel': 'a tunnel packet that the overlay did not make',
  malformed: 'its headers do not add up',
  'no-backend': 'the service has no backend',
  'earlier-run': 'by the rules of an earlier run, until the stores have been seen',
  'changed-meanwhile': 'the policy that decided has changed since',
};

function whyPieces({ policy, dropReason }: FlowRecord): Piece[] {
  const { reason, rules, more = 0, why } = policy;
  const number = dropReason === undefined ? '' : ` (${dropReason.number} ${dropReason.text})`;
  const places = rules.map(
    ({ policy: name, path, place }) => `${name} ${path}${place === undefined ? '' : ` ${place}`}`,
  );
  return [
    [`${REASONS[reason] ?? reason}${number}${why !== undefined || places.length > 0 ? ':' : ''}`],
    ...(why === undefined ? [] : [[why] as const]),
    ...places.map((text, index): Piece => [index < places.length - 1 ? `${text},` : text]),
    ...(more > 0 ? [[`and ${more} more`] as const] : []),
  ];
}

function commandText({ explain }: FlowRecord, { place }: MonitorStyle): string {
  return printable(['mesh-agent', ...explain, ...place].map(quoted).join(' '));
}

/** For a shell, where that is needed. */
function quoted(word: string): string {
  return /^[A-Za-z0-9_./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

const PROTOCOL_NUMBERS: Readonly<Record<string, number>> = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58, sctp: 132 };

/** After `cilium-dbg monitor`: the machine is endpoint 1. */
export function compactText(flow: FlowRecord): string {
  const ends = `${endText(flow.source, flow.sourcePort)} -> ${endText(flow.destination, flow.destinationPort)}`;
  const packet = `${ends} ${compactProtocol(flow)}`;
  const hash = `flow 0x${flow.number.toString(16)}`;
  const identities = `identity ${flow.source.identity}->${flow.destination.identity}`;
  if (flow.verdict === 'DROPPED') {
    const to = flow.direction === 'ingress' ? 'to endpoint 1' : 'from endpoint 1';
    const text = flow.dropReason?.text ?? 'Policy denied';
    return printable(
      `xx drop (${text}) ${hash} ${to}, ifindex ${flow.interface.index}, ${identities}: ${packet}`,
    ).concat('\n');
  }
  const peer = flow.direction === 'ingress' ? flow.source : flow.destination;
  const protocol = PROTOCOL_NUMBERS[flow.protocol] ?? flow.protocol;
  const action = flow.verdict === 'AUDIT' ? 'audit' : 'allow';
  const head = `Policy verdict log: ${hash} local EP ID 1, remote ID ${peer.identity}, proto ${protocol}, ${flow.direction}`;
  const match = matchWord(flow.policy.ports);
  return printable(`${head}, action ${action}, auth: disabled, match ${match}, ${packet}`).concat('\n');
}

function matchWord(ports: string | undefined): string {
  if (ports === undefined) return 'none';
  if (ports === 'any') return 'L3-Only';
  return ports.endsWith('/*') ? 'L3-Proto' : 'L3-L4';
}

function compactProtocol({ protocol, tcpFlags, icmp }: FlowRecord): string {
  if (tcpFlags !== undefined) return `tcp ${tcpFlags.join(', ')}`;
  if (icmp === undefined) return protocol;
  const name = protocol === 'icmp' ? 'icmp' : 'icmpv6';
  const echo: Readonly<Record<string, string>> = {
    'icmp 8': 'EchoRequest',
    'icmp 0': 'EchoReply',
    'icmpv6 128': 'EchoRequest',
    'icmpv6 129': 'EchoReply',
  };
  return `${name} ${echo[`${name} ${icmp.type}`] ?? `type ${icmp.type} code ${icmp.code}`}`;
}

const LOST: Readonly<Record<LostSource, string>> = {
  'kernel-limit': 'more came than `monitor.rate` tells of',
  'kernel-buffer': 'the agent was too slow for the kernel',
  'agent-queue': 'the agent had no time for them',
  reader: 'they went by before they were read',
};

export function lostText(lost: { readonly source: LostSource; readonly packets: number }, style = PLAIN): string {
  const paint: Paint = painter(style.color);
  const { source, packets } = lost;
  return `${paint(`${plural(packets, 'packet')} not shown: ${LOST[source] ?? source}`, 'yellow')}\n`;
}
