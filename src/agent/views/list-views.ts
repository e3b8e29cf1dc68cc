import type { NameRecord } from '../../api/policy-types.ts';
import { parseSelector } from '../../api/selector.ts';
import type {
  EndpointFilter,
  EndpointRecord,
  IdentityRecord,
  IpcacheRecord,
  KernelAddressRecord,
  KernelConnectionRecord,
  KernelPolicyRecord,
  NodeRecord,
} from '../../api/types.ts';
import { identity, type NumericIdentity, RESERVED_LABELS } from '../../core/identity.ts';
import { formatAddress, formatPrefix, parseAddress } from '../../core/ip.ts';
import { labelTexts } from '../../core/labels.ts';
import { WordTable } from '../../core/word-table.ts';
import type { ConnectionEnd } from '../../datapath/connection.ts';
import type { KernelPolicyRow } from '../../datapath/datapath.ts';
import { nodeIp } from '../../kvstore/codec/node.ts';
import type { IpcacheEntry } from '../../mesh/ipcache.ts';
import type { Agent } from '../agent.ts';
import { enforcementWords } from './status-view.ts';

/** The clock is asked after so many records or interruptions. */
const PAUSE: readonly undefined[] = Array.from({ length: 64 });

/** Labels of any number that is known: of clusters, reserved, or of a prefix that a policy names. */
export function labelsOf(agent: Agent, id: NumericIdentity): readonly string[] {
  const labels = agent.tables.identities.get(id)?.labels ?? agent.model.labelsOf(id);
  return labels === undefined ? (RESERVED_LABELS.get(id) ?? []) : labelTexts(labels);
}

export function* endpointViews(agent: Agent, filter: EndpointFilter): Iterable<EndpointRecord | undefined> {
  const own = ownEndpoint(agent);
  const wanted = filter.selector === undefined ? () => true : parseSelector(filter.selector);
  const matches = (record: EndpointRecord): boolean =>
    (filter.cluster === undefined || record.cluster === filter.cluster) && wanted(record.labels);
  if (matches(own)) yield own;
  if (!filter.all && filter.selector === undefined && filter.cluster === undefined) return;
  for (const entry of agent.tables.ipcache.entries()) {
    if (entry.origin.source === 'local' || entry.origin.source === 'policy') continue;
    const record = remoteEndpoint(agent, entry);
    yield matches(record) ? record : undefined;
  }
}

function ownEndpoint(agent: Agent): EndpointRecord {
  const { config, machine, model } = agent;
  const registered = agent.registration?.registered;
  const { ingress, egress } = model.resolved;
  return {
    local: true,
    id: 1,
    name: config.name,
    cluster: registered?.cluster.name ?? '',
    identity: registered?.identity ?? 5,
    labels: registered === undefined ? ['reserved:init'] : labelTexts(registered.labels),
    ...(machine.ipv4 !== undefined && { ipv4: formatAddress(machine.ipv4) }),
    ...(machine.ipv6 !== undefined && { ipv6: formatAddress(machine.ipv6) }),
    policyIngress: enforcementWords(ingress, config.audit),
    policyEgress: enforcementWords(egress, config.audit),
    status: registered === undefined ? 'waiting-for-identity' : agent.enforcing ? 'ready' : 'not-ready',
  };
}

function remoteEndpoint(agent: Agent, entry: IpcacheEntry): EndpointRecord {
  const text =
    entry.prefix.bits === (entry.prefix.family === 4 ? 32 : 128)
      ? formatAddress(entry.prefix)
      : formatPrefix(entry.prefix);
  return {
    local: false,
    id: 0,
    name: '',
    cluster: entry.origin.cluster,
    identity: entry.identity,
    labels: labelsOf(agent, entry.identity),
    ...(entry.prefix.family === 4 ? { ipv4: text } : { ipv6: text }),
    policyIngress: '',
    policyEgress: '',
    status: 'ready',
  };
}

export function* identityViews(agent: Agent): Iterable<IdentityRecord> {
  for (const record of pacedIdentityViews(agent)) if (record !== undefined) yield record;
}

/** The same, for a list that may be interrupted. */
export function* pacedIdentityViews(agent: Agent): Iterable<IdentityRecord | undefined> {
  const counts = new Map<number, number>();
  yield* countAddresses(agent, counts);
  for (const [id, labels] of RESERVED_LABELS) yield { id, cluster: '', labels, addresses: counts.get(id) ?? 0 };
  const known = [...agent.tables.identities.entries()].sort(([a], [b]) => a - b);
  for (const [id, { cluster, labels }] of known)
    yield { id, cluster, labels: labelTexts(labels), addresses: counts.get(id) ?? 0 };
  for (const { identity: id } of agent.model.resolved.prefixes.values()) {
    yield { id, cluster: '', labels: labelsOf(agent, id), addresses: counts.get(id) ?? 0 };
  }
}

export function identityView(agent: Agent, id: number): IdentityRecord | undefined {
  const number = identity(id);
  const labels = labelsOf(agent, number);
  if (labels.length === 0) return undefined;
  return {
    id,
    cluster: agent.tables.identities.get(number)?.cluster ?? '',
    labels,
    addresses: addressesOf(agent, id),
  };
}

/** Counts addresses by identity, with pauses: there may be a million. */
function* countAddresses({ tables }: Agent, counts: Map<number, number>): Iterable<undefined> {
  const add = (id: number): void => void counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const { table } of [tables.ipcache.hosts4, tables.ipcache.hosts6]) {
    for (let part = 0; part < WordTable.parts; part++) {
      table.forEach((slot) => {
        add(table.get(slot, 0));
      }, part);
      yield* PAUSE;
    }
  }
  for (const { identity: id } of tables.ipcache.prefixes()) add(id);
}

/** One number is compared, so a walk without a pause will do. */
function addressesOf({ tables }: Agent, id: number): number {
  let count = 0;
  for (const { table } of [tables.ipcache.hosts4, tables.ipcache.hosts6]) {
    table.forEach((slot) => {
      if (table.get(slot, 0) === id) count++;
    });
  }
  for (const { identity } of tables.ipcache.prefixes()) if (identity === id) count++;
  return count;
}

export function* nodeViews(agent: Agent): Iterable<NodeRecord> {
  const nodes = [...agent.tables.nodes.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
  const joined = agent.mesh.joined?.name;
  for (const [, node] of nodes) {
    const [ipv4, ipv6] = [nodeIp(node, 4), nodeIp(node, 6)];
    const [range4, range6] = [node.ranges4[0], node.ranges6[0]];
    yield {
      name: node.name,
      cluster: node.cluster,
      ...(ipv4 !== undefined && { ipv4: formatAddress(ipv4) }),
      ...(range4 !== undefined && { ipv4Range: formatPrefix(range4) }),
      ...(ipv6 !== undefined && { ipv6: formatAddress(ipv6) }),
      ...(range6 !== undefined && { ipv6Range: formatPrefix(range6) }),
      source: agent.desired.isSelf(node) ? 'local' : node.cluster === joined ? 'kvstore' : 'clustermesh',
    };
  }
}

export function ipcacheView(agent: Agent, entry: IpcacheEntry): IpcacheRecord {
  const { origin, others } = entry;
  return {
    prefix: formatPrefix(entry.prefix),
    identity: entry.identity,
    labels: labelsOf(agent, entry.identity),
    tunnelEndpoint: entry.tunnelEndpoint === undefined ? '0.0.0.0' : formatAddress(entry.tunnelEndpoint),
    source: origin.source,
    ...(origin.cluster !== '' && { cluster: origin.cluster }),
    ...(others.length > 0 && {
      others: others.map((other) => ({
        cluster: other.origin.cluster,
        source: other.origin.source,
        identity: other.identity,
      })),
    }),
  };
}

export function* ipcacheViews(agent: Agent): Iterable<IpcacheRecord> {
  for (const entry of agent.tables.ipcache.entries()) yield ipcacheView(agent, entry);
  yield* worldViews(agent);
}

/** What an address that nobody claims is. */
function* worldViews(agent: Agent): Iterable<IpcacheRecord> {
  const dual = agent.machine.dualStack;
  for (const [prefix, id] of [
    ['0.0.0.0/0', dual ? 9 : 2],
    ['::/0', dual ? 10 : 2],
  ] as const) {
    yield {
      prefix,
      identity: id,
      labels: RESERVED_LABELS.get(identity(id)) ?? [],
      tunnelEndpoint: '0.0.0.0',
      source: 'reserved',
    };
  }
}

export function ipcacheGet(agent: Agent, text: string): IpcacheRecord | undefined {
  const address = parseAddress(text);
  if (address === undefined) return undefined;
  const entry = agent.tables.ipcache.lookup(address);
  if (entry !== undefined) return ipcacheView(agent, entry);
  return [...worldViews(agent)].find(({ prefix }) => prefix.includes(':') === (address.family === 6));
}

export async function kernelAddressViews(agent: Agent): Promise<Iterable<KernelAddressRecord>> {
  const addresses = await agent.datapath.dumpAddresses();
  return mapped(addresses, (each) => ({ ...each, labels: labelsOf(agent, identity(each.identity)) }));
}

const PROTOCOLS: Readonly<Record<number, string>> = {
  0: 'ANY',
  1: 'ICMP',
  6: 'TCP',
  17: 'UDP',
  58: 'ICMPv6',
  132: 'SCTP',
};

export async function kernelPolicyViews(agent: Agent): Promise<Iterable<KernelPolicyRecord>> {
  const rows = await agent.datapath.dumpPolicy();
  return mapped(rows, kernelPolicyView);
}

export function kernelPolicyView(row: KernelPolicyRow): KernelPolicyRecord {
  return {
    direction: row.direction,
    verdict: row.verdict,
    ...(row.identities.length > 0 && { identities: row.identities }),
    classNumber: row.classNumber,
    protocol: PROTOCOLS[row.protocol] ?? String(row.protocol),
    ports: portsText(row),
    packets: row.packets,
    bytes: row.bytes,
  };
}

export async function kernelConnectionViews(agent: Agent): Promise<Iterable<KernelConnectionRecord>> {
  const connections = await agent.datapath.dumpConnections();
  return mapped(connections, ({ direction, protocol, remote, local, state, expiresIn }) => ({
    direction,
    protocol: PROTOCOLS[protocol] ?? String(protocol),
    remote: endText(remote),
    local: endText(local),
    state,
    expiresIn,
  }));
}

function endText({ address, port }: ConnectionEnd): string {
  if (port === 0) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

export function* nameViews(agent: Agent): Iterable<NameRecord> {
  const now = Date.now();
  for (const { name, addresses } of agent.names.list().sort((a, b) => (a.name < b.name ? -1 : 1))) {
    yield {
      name,
      addresses: addresses.map(({ address, until }) => ({ address, expires: until, live: until <= now })),
      selectors: agent.model.fqdnSelectorsOf(name),
    };
  }
}

function* mapped<T, R>(items: Iterable<T>, map: (item: T) => R): Iterable<R> {
  for (const item of items) yield map(item);
}

/** `*` for all, `80`, `80-95`; the type for ICMP. */
function portsText({ protocol, first, last }: KernelPolicyRow): string {
  if (protocol === 0 || (first === 0 && last >= 65535)) return '*';
  return first === last ? String(first) : `${first}-${last}`;
}
