import { PROTOCOL, type Protocol } from '../result.ts';
import type { PortMatch } from '../rule.ts';
import { type Cursor, shown } from './cursor.ts';
import { icmpType } from './icmp-types.ts';

/** Ports and ICMP types (specification 8). */
export const ALL_PORTS = { first: 0, last: 65535 } as const;
export const MAX_PORTS = 40;

const TRANSPORTS: ReadonlyMap<string, readonly Protocol[]> = new Map([
  ['TCP', [PROTOCOL.tcp]],
  ['UDP', [PROTOCOL.udp]],
  ['SCTP', [PROTOCOL.sctp]],
  ['ANY', [PROTOCOL.tcp, PROTOCOL.udp, PROTOCOL.sctp]],
]);

export function readProtocol(at: Cursor | undefined, missing: 'ANY' | 'TCP'): readonly Protocol[] {
  const written = at === undefined ? missing : at.string();
  const protocols = TRANSPORTS.get(written === '' ? missing : written.toUpperCase());
  if (protocols !== undefined) return protocols;
  return at?.fail(`invalid protocol ${shown(written)}, must be { tcp | udp | sctp | any }`) ?? [];
}

/** An IANA service name: with a letter, and single dashes inside only. */
export function isPortName(text: string): boolean {
  return text.length <= 15 && /^[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*$/.test(text) && /[A-Za-z]/.test(text);
}

/** One item of `ports`. */
export interface PortItem {
  readonly matches: readonly PortMatch[];
  readonly protocols: readonly Protocol[];
  readonly isRange: boolean;
  readonly isZero: boolean;
}

export function readPort(at: Cursor): PortItem {
  const fields = at.fields(['port', 'endPort', 'protocol']);
  const port = fields.get('port');
  const text = port?.string() ?? '';
  if (text === '') (port ?? at).fail('Port must be specified');
  const protocols = readProtocol(fields.get('protocol'), 'ANY');
  const endPort = fields.get('endPort')?.integer(0, 65535) ?? 0;
  return portItem(port ?? at, text, { endPort, protocols });
}

export function portItem(
  at: Cursor,
  text: string,
  { endPort, protocols }: { readonly endPort: number; readonly protocols: readonly Protocol[] },
): PortItem {
  if (isPortName(text)) {
    const name = text.toLowerCase();
    const matches = protocols.map((protocol) => ({ protocol, name }));
    return { matches, protocols, isRange: false, isZero: false };
  }
  const first = portNumber(at, text);
  const range = portRange(first, endPort);
  return {
    matches: protocols.map((protocol) => ({ protocol, ...range })),
    protocols,
    isRange: endPort > first,
    isZero: first === 0,
  };
}

/** An end that is not above the first port is ignored (specification 8.1.7); port 0 alone is every port. */
function portRange(first: number, endPort: number): { readonly first: number; readonly last: number } {
  if (endPort > first) return { first, last: endPort };
  return first === 0 ? ALL_PORTS : { first, last: first };
}

function portNumber(at: Cursor, text: string): number {
  if (!/^[0-9]{1,5}$/.test(text)) at.fail(`Unable to parse port: ${shown(text)} is neither a number nor a port name`);
  if (text.length > 1 && text.startsWith('0')) {
    at.fail(`Unable to parse port: ${shown(text)} has a leading zero, which some read as octal`);
  }
  const number = Number(text);
  if (number > 65535) at.fail(`Unable to parse port: ${text} is larger than 65535`);
  return number;
}

/** `icmps` of an entry, or undefined where it counts as missing. */
export function readIcmps(items: readonly Cursor[] | undefined): PortMatch[] | undefined {
  if (items === undefined || items.length === 0) return undefined;
  return items.flatMap((item) => {
    const fields = item.fields(['fields']).items('fields') ?? [];
    if (fields.length > MAX_PORTS) item.fail(`too many types, the max is ${MAX_PORTS}`);
    return fields.map(readIcmp);
  });
}

function readIcmp(at: Cursor): PortMatch {
  const fields = at.fields(['family', 'type']);
  const family = fields.string('family') ?? 'IPv4';
  if (family !== 'IPv4' && family !== 'IPv6') return at.fail(`wrong family: ${family}`);
  const type = fields.get('type');
  if (type === undefined) return at.fail('an ICMP type must be specified');
  const text = type.stringOrInteger();
  const number = icmpType(family, text);
  if (number === undefined) return type.fail(`ICMP type ${shown(text)} not found in ${family}`);
  const protocol = family === 'IPv4' ? PROTOCOL.icmp : PROTOCOL.icmpv6;
  // The type sits in the place of the port, where 0 is the wildcard (specification 8.3.3).
  return number === 0 ? { protocol, ...ALL_PORTS } : { protocol, first: number, last: number };
}
