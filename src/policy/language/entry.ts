import type { Authentication, Entry, Peers, PortMatch } from '../rule.ts';
import { type Cursor, type Fields, shown } from './cursor.ts';
import { readL7 } from './l7.ts';
import { type PeerReading, peerFields, readPeers } from './peers.ts';
import { MAX_PORTS, readIcmps, readPort } from './ports.ts';

/** One item of ingress, ingressDeny, egress or egressDeny (specification 3). */
export interface EntryReading extends PeerReading {
  readonly onHost: boolean;
}

export function readEntry(at: Cursor, reading: EntryReading): Entry {
  const known = [...peerFields(reading), 'toPorts', 'icmps', ...(reading.deny ? [] : ['authentication'])];
  const fields = at.fields(known);
  const read = readPeers(fields, reading);
  const toPorts = readToPorts(fields, reading);
  const icmps = readIcmps(fields.items('icmps'));
  if (toPorts !== undefined && icmps !== undefined) {
    at.fail('The ICMPs block may only be present without ToPorts. Define a separate rule to use ToPorts.');
  }
  const ports = toPorts?.ports ?? icmps;
  const authentication = reading.deny ? undefined : readAuthentication(fields.get('authentication'));
  return {
    ref: { policy: at.context.policy, path: at.path, line: at.line },
    peers: read.peers ?? withoutPeers(ports),
    requires: read.requires,
    ports,
    ...(authentication === undefined ? {} : { authentication }),
    heldBack: [...read.heldBack, ...(toPorts?.heldBack ?? []), ...needsAuthentication(authentication)],
  };
}

/** Specification 7.1: no peers with ports is everyone on them; nothing at all is nobody. */
function withoutPeers(ports: readonly PortMatch[] | undefined): Peers {
  return { kind: ports === undefined ? 'nobody' : 'everyone' };
}

interface ReadPorts {
  readonly ports: readonly PortMatch[];
  readonly heldBack: readonly string[];
}

function readToPorts(fields: Fields, reading: EntryReading): ReadPorts | undefined {
  const items = fields.items('toPorts') ?? [];
  if (items.length === 0) return undefined;
  const ports: PortMatch[] = [];
  const heldBack: string[] = [];
  for (const item of items) {
    const l7 = ['rules', 'terminatingTLS', 'originatingTLS', 'serverNames', 'listener'];
    const inner = item.fields(reading.deny ? ['ports'] : ['ports', ...l7]);
    const written = inner.items('ports') ?? [];
    if (written.length > MAX_PORTS) item.fail(`too many ports, the max is ${MAX_PORTS}`);
    const read = written.map(readPort);
    const why = reading.deny ? undefined : readL7(inner, { ...reading, ports: read });
    if (why === undefined) ports.push(...read.flatMap(({ matches }) => matches));
    else heldBack.push(`${item.path} (line ${item.line}): ${why}`);
  }
  return { ports, heldBack };
}

function readAuthentication(at: Cursor | undefined): Authentication | undefined {
  if (at === undefined) return undefined;
  const mode = at.fields(['mode']).string('mode') ?? '';
  if (mode === 'required' || mode === 'disabled' || mode === 'test-always-fail') return mode;
  return at.fail(`unknown authentication mode ${shown(mode)}; known are required, disabled, test-always-fail`);
}

function needsAuthentication(mode: Authentication | undefined): string[] {
  if (mode === undefined || mode === 'disabled') return [];
  return [`authentication ${mode}: this agent does not authenticate peers, so the flow is not allowed by this entry`];
}
