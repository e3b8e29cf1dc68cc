import { MeshError } from '../../core/errors.ts';
import { icmpType } from '../../policy/language/icmp-types.ts';
import { PROTOCOL, type Protocol } from '../../policy/result.ts';

/** Protocol and destination port of a question; of ICMP the type. */
export interface AskedPort {
  readonly protocol: Protocol;
  readonly port: number;
}

const NAMES: ReadonlyMap<string, Protocol> = new Map([
  ['tcp', PROTOCOL.tcp],
  ['udp', PROTOCOL.udp],
  ['sctp', PROTOCOL.sctp],
  ['icmp', PROTOCOL.icmp],
  ['icmpv6', PROTOCOL.icmpv6],
]);

/** `tcp/80`, `80/tcp` (as Cilium writes it), `icmp/8`, `icmpv6/EchoRequest`. Throws MeshError API-QUESTION. */
export function readPort(text: string): AskedPort {
  const [left = '', right = '', more] = text.split('/');
  const turned = NAMES.has(right.toLowerCase());
  const [name, what] = turned ? [right.toLowerCase(), left] : [left.toLowerCase(), right];
  const protocol = NAMES.get(name);
  if (protocol === undefined || what === '' || more !== undefined)
    throw new MeshError('API-QUESTION', `${JSON.stringify(text)} is no port such as tcp/80, udp/53 or icmp/8`);
  const port = isIcmp(protocol)
    ? icmpType(protocol === PROTOCOL.icmp ? 'IPv4' : 'IPv6', what)
    : /^[0-9]{1,5}$/.test(what) && Number(what) <= 65535
      ? Number(what)
      : undefined;
  if (port === undefined)
    throw new MeshError(
      'API-QUESTION',
      `${JSON.stringify(what)} is no ${isIcmp(protocol) ? 'type' : 'port'} of ${name}`,
    );
  return { protocol, port };
}

export function isIcmp(protocol: number): boolean {
  return protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6;
}

export function protocolWord(protocol: number): string {
  if (protocol === PROTOCOL.any) return 'any';
  for (const [name, number] of NAMES) if (number === protocol) return name;
  return String(protocol);
}

/** `tcp/80`, `tcp/80-95`, `udp/*`, `icmp/8`, `any`. */
export function portsWord(range: { readonly protocol: number; readonly first: number; readonly last: number }): string {
  const { protocol, first, last } = range;
  if (protocol === PROTOCOL.any) return 'any';
  const all = first === 0 && last >= 65535;
  return `${protocolWord(protocol)}/${all ? '*' : first === last ? first : `${first}-${last}`}`;
}
