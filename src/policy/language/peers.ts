import { contains, type Prefix, parsePrefix } from '../../core/ip.ts';
import { isEntity } from '../entities.ts';
import { requirement } from '../resolve/match.ts';
import type { CidrItem, FqdnItem, PeerSelector, Peers } from '../rule.ts';
import { type Cursor, type Fields, shown } from './cursor.ts';
import { isLocalByDefault, type PeerScope, scopedPeer } from './scope.ts';
import { readSelector } from './selectors.ts';

/** Peers of an entry (specification 7). */
export interface PeerReading extends PeerScope {
  readonly direction: 'ingress' | 'egress';
  readonly deny: boolean;
}

export interface ReadPeers {
  /** Undefined when no peer field counts: what that means depends on the ports. */
  readonly peers: Peers | undefined;
  readonly requires: readonly PeerSelector[];
  readonly heldBack: readonly string[];
}

const KINDS = ['Endpoints', 'Requires', 'CIDR', 'CIDRSet', 'Entities', 'Groups', 'Nodes'] as const;
/** A list of these that is empty selects nobody; other empty lists count as missing (specification 7.1). */
const EMPTY_COUNTS = ['Endpoints', 'CIDR', 'CIDRSet', 'Entities', 'Nodes'] as const;

/** Names of the peer fields, which differ by direction. */
export function peerFields({ direction, deny }: Pick<PeerReading, 'direction' | 'deny'>): string[] {
  if (direction === 'ingress') return KINDS.map((kind) => `from${kind}`);
  return [...KINDS, 'Services', ...(deny ? [] : ['FQDNs'])].map((kind) => `to${kind}`);
}

export function readPeers(fields: Fields, reading: PeerReading): ReadPeers {
  const way = reading.direction === 'ingress' ? 'from' : 'to';
  const items = (kind: string): Cursor[] | undefined => fields.items(`${way}${kind}`);
  const requires = (items('Requires') ?? []).map((item) => scopedPeer(readSelector(item), reading, true));
  if (requires.length > 0) fields.at.context.warn(fields.at, `${way}Requires is deprecated and gone from later Cilium`);
  const filled = peerFields(reading).filter(
    (name) => name !== `${way}Requires` && (fields.items(name)?.length ?? 0) > 0,
  );
  if (filled.length > 1) {
    const title = (name: string | undefined): string => `${name?.charAt(0).toUpperCase()}${name?.slice(1)}`;
    fields.at.fail(`Combining ${title(filled[0])} and ${title(filled[1])} is not supported yet`);
  }
  const read = filled[0] === undefined ? undefined : readKind(filled[0], fields, reading);
  if (EMPTY_COUNTS.some((kind) => items(kind)?.length === 0))
    return { peers: { kind: 'nobody' }, requires, heldBack: [] };
  if (read !== undefined) return { ...read, requires };
  // An entry with nothing but the legacy field selects nobody itself (specification 7.3.4).
  return { peers: requires.length > 0 ? { kind: 'nobody' } : undefined, requires, heldBack: [] };
}

function readKind(name: string, fields: Fields, reading: PeerReading): Omit<ReadPeers, 'requires'> {
  const items = fields.items(name) ?? [];
  const nobody = (why: string): Omit<ReadPeers, 'requires'> => ({ peers: { kind: 'nobody' }, heldBack: [why] });
  switch (name.replace(/^(?:from|to)/, '')) {
    case 'Endpoints':
      return {
        peers: { kind: 'endpoints', selectors: items.map((item) => scopedPeer(readSelector(item), reading)) },
        heldBack: [],
      };
    case 'Nodes':
      return { peers: { kind: 'nodes', selectors: items.map(readNodeSelector) }, heldBack: [] };
    case 'Entities':
      return { peers: { kind: 'entities', entities: items.map(readEntity) }, heldBack: [] };
    case 'CIDR':
      return { peers: { kind: 'cidrs', items: items.map(readCidr) }, heldBack: [] };
    case 'CIDRSet':
      return { peers: { kind: 'cidrs', items: items.map(readCidrSetItem) }, heldBack: [] };
    case 'FQDNs':
      return { peers: { kind: 'fqdns', items: items.map(readFqdn) }, heldBack: [] };
    case 'Services':
      return nobody(`${name} selects nobody: this agent has no source of Kubernetes services`);
    default:
      return nobody(`${name} selects nobody: this agent resolves no cloud provider groups`);
  }
}

function readNodeSelector(at: Cursor): PeerSelector {
  if (!at.context.nodeSelectors) {
    at.fail('FromNodes/ToNodes rules can only be applied when the "enable-node-selector-labels" flag is set');
  }
  const selector = readSelector(at);
  return {
    requirements: [...selector, requirement('reserved', 'remote-node', 'Exists')],
    localByDefault: isLocalByDefault(selector),
  };
}

function readEntity(at: Cursor): string {
  const name = at.string();
  return isEntity(name) ? name : at.fail(`unsupported entity: ${name.slice(0, 80)}`);
}

function readCidr(at: Cursor): CidrItem {
  const text = at.string();
  if (text === '') at.fail('IP must be specified');
  return { within: parsePrefix(text) ?? at.fail(`unable to parse CIDR: ${shown(text)}`), except: [] };
}

export function readCidrSetItem(at: Cursor): CidrItem {
  const fields = at.fields(['cidr', 'cidrGroupRef', 'cidrGroupSelector', 'except']);
  const given = ['cidr', 'cidrGroupRef', 'cidrGroupSelector'].filter((name) => {
    const field = fields.get(name);
    return field !== undefined && !(field.node.kind === 'scalar' && field.node.value === '');
  });
  if (given.length === 0) at.fail('one of cidr, cidrGroupRef, or cidrGroupSelector is required');
  if (given.length > 1) at.fail('more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set');
  const except = (fields.items('except') ?? []).map((item) => readFullPrefix(item));
  const field = fields.get(given[0] ?? '') ?? at;
  if (given[0] === 'cidrGroupRef') return { within: { group: field.string() }, except };
  if (given[0] === 'cidrGroupSelector') return { within: { groups: readSelector(field) }, except };
  const within = readFullPrefix(field);
  for (const [index, each] of except.entries()) {
    if (contains(within, each)) continue;
    const written = fields.items('except')?.[index];
    (written ?? at).fail(
      `allow CIDR prefix ${field.string()} does not contain exclude CIDR prefix ${written?.string()}`,
    );
  }
  return { within, except };
}

function readFullPrefix(at: Cursor): Prefix {
  const text = at.string();
  const prefix = text.includes('/') ? parsePrefix(text) : undefined;
  return prefix ?? at.fail(`Unable to parse CIDRRule ${shown(text)}: it must be an address with a prefix length`);
}

const MAX_FQDN = 255;

export function readFqdn(at: Cursor): FqdnItem {
  const fields = at.fields(['matchName', 'matchPattern']);
  const name = fields.string('matchName') ?? '';
  const pattern = fields.string('matchPattern') ?? '';
  if (name !== '' && pattern !== '') at.fail('only one of MatchName or MatchPattern is allowed in an FQDNSelector');
  const text = name === '' ? pattern : name;
  if (text === '') at.fail('one of matchName or matchPattern is required in an FQDNSelector');
  if (text.length > MAX_FQDN) at.fail(`a name is longer than ${MAX_FQDN} characters`);
  if (name !== '' && !/^[-a-zA-Z0-9_.]+$/.test(name)) {
    at.fail(`Invalid characters in MatchName: ${shown(name)}. Only letters, digits, "-", "_" and "." are allowed`);
  }
  if (name === '' && !/^[-a-zA-Z0-9_.*]+$/.test(pattern.trim())) {
    at.fail(
      `Invalid characters in MatchPattern: ${shown(pattern)}. Only letters, digits, "-", "_", "." and "*" are allowed`,
    );
  }
  const normal = text.trim().toLowerCase().replace(/\.$/, '');
  return name === '' ? { pattern: normal, text } : { name: normal, text };
}
