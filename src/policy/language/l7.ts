import { PROTOCOL } from '../result.ts';
import { type Cursor, type Fields, shown } from './cursor.ts';
import { readFqdn } from './peers.ts';
import type { PortItem } from './ports.ts';

/** What only a proxy can enforce (specification 9): checked as Cilium checks it, then held back. */
export interface L7Place {
  readonly direction: 'ingress' | 'egress';
  readonly onHost: boolean;
  readonly ports: readonly PortItem[];
}

const KINDS = ['http', 'kafka', 'dns', 'l7'] as const;
type Kind = (typeof KINDS)[number];

/** Why the ports of an item of `toPorts` are held back, or undefined when packets can decide alone. */
export function readL7(item: Fields, place: L7Place): string | undefined {
  const rules = readRules(item.get('rules'), place);
  const listener = item.get('listener');
  if (listener !== undefined) checkListener(listener, place, rules !== undefined);
  const tls = ['terminatingTLS', 'originatingTLS'].filter((name) => item.get(name) !== undefined);
  const serverNames = item.items('serverNames') ?? [];
  for (const name of serverNames) if (name.string() === '') name.fail('Empty server name is not allowed');
  if (serverNames.length > 0 && rules !== undefined && item.get('terminatingTLS') === undefined) {
    item.at.fail('ServerNames are not allowed with L7 rules without TLS termination');
  }
  const needs = [
    ...(rules === undefined || rules.passes ? [] : [`${rules.kind} rules`]),
    ...tls,
    ...(serverNames.length > 0 ? ['serverNames'] : []),
    ...(listener === undefined ? [] : ['listener']),
  ];
  const any = rules !== undefined || tls.length > 0 || serverNames.length > 0 || listener !== undefined;
  if (any && item.at.context.rejectL7) item.at.fail('L7 policy is not supported since L7 proxy is not enabled');
  if (needs.length === 0) return undefined;
  return `needs L7 proxy (${needs.join(', ')}): the flow is not allowed by this entry`;
}

interface ReadRules {
  readonly kind: Kind;
  /** Allows every request, so that packets can decide. */
  readonly passes: boolean;
}

function readRules(at: Cursor | undefined, place: L7Place): ReadRules | undefined {
  if (at === undefined) return undefined;
  const fields = at.fields(['http', 'kafka', 'dns', 'l7proto', 'l7']);
  const used = KINDS.filter((kind) => (fields.items(kind)?.length ?? 0) > 0);
  const proto = fields.string('l7proto') ?? '';
  if (used.length > 1) at.fail('multiple L7 protocol rule types specified in single rule');
  if (used[0] === 'l7' && proto === '') at.fail("'l7' may only be specified when a 'l7proto' is also specified");
  if (proto !== '' && used[0] !== undefined && used[0] !== 'l7') {
    at.fail('multiple L7 protocol rule types specified in single rule');
  }
  const kind = used[0] ?? (proto === '' ? undefined : 'l7');
  if (kind === undefined) return undefined;
  checkPlace(at, kind, place);
  const items = fields.items(kind) ?? [];
  if (kind === 'http') for (const item of items) checkHttp(item);
  if (kind === 'kafka') for (const item of items) item.fields(['role', 'apiKey', 'apiVersion', 'clientID', 'topic']);
  const everything = kind === 'dns' && items.map(readFqdn).some(({ pattern }) => pattern === '*');
  return { kind, passes: everything };
}

function checkPlace(at: Cursor, kind: Kind, { direction, onHost, ports }: L7Place): void {
  if (onHost && !(kind === 'dns' && direction === 'egress')) at.fail('host policies do not support L7 rules yet');
  if (kind === 'dns') {
    if (direction === 'ingress') at.fail('L7 protocol DNS is not supported on ingress yet');
    if (ports.length === 0) at.fail('Port 53 must be specified for DNS rules');
    if (ports.some(({ isRange }) => isRange)) at.fail('DNS rules do not support port ranges');
  } else if (ports.some(({ protocols }) => protocols.some((protocol) => protocol !== PROTOCOL.tcp))) {
    at.fail('L7 rules can only apply to TCP (not UDP, SCTP or ANY) except for DNS rules');
  }
  if (ports.some(({ isZero }) => isZero)) at.fail('L7 rules can not be used when a port is 0');
}

function checkListener(at: Cursor, { direction }: L7Place, hasRules: boolean): void {
  const fields = at.fields(['envoyConfig', 'name', 'priority']);
  const name = fields.string('name') ?? '';
  if (direction === 'ingress') at.fail(`Listener is not allowed on ingress (${name})`);
  if (hasRules) at.fail(`Listener is not allowed with L7 rules (${name})`);
}

function checkHttp(at: Cursor): void {
  const fields = at.fields(['path', 'method', 'host', 'headers', 'headerMatches']);
  for (const name of ['path', 'method', 'host']) {
    const field = fields.get(name);
    if (field !== undefined) checkRegex(field);
  }
  for (const header of fields.items('headers') ?? []) header.string();
  for (const match of fields.items('headerMatches') ?? []) checkHeader(match);
}

function checkHeader(at: Cursor): void {
  const fields = at.fields(['name', 'value', 'secret', 'mismatch']);
  if ((fields.string('name') ?? '') === '') at.fail('Header name missing');
  const action = fields.string('mismatch') ?? '';
  if (!['', 'LOG', 'ADD', 'DELETE', 'REPLACE'].includes(action)) at.fail(`Invalid header action: ${shown(action)}`);
  const secret = fields.get('secret')?.fields(['namespace', 'name']);
  if (secret !== undefined && (secret.string('name') ?? '') === '') at.fail('Secret name missing');
}

/** The expression is never run here, so only what surely does not compile is refused. */
function checkRegex(at: Cursor): void {
  const text = at.string();
  // Go has neither look-around nor back references.
  if (/\(\?(?:[=!]|<[=!])|\\[1-9]/.test(text)) at.fail(`error parsing regexp: unsupported syntax in ${shown(text)}`);
  try {
    new RegExp(text.replace(/\(\?[imsU]+\)/g, ''));
  } catch (error) {
    at.fail(`error parsing regexp: ${error instanceof Error ? error.message : String(error)}`);
  }
}
