import { contains, parsePrefix } from '../../core/ip.ts';
import type { CidrItem, Entry, Peers, PortMatch, Rule, RuleSection, Selector } from '../rule.ts';
import { type Cursor, type Fields, shown } from './cursor.ts';
import { displaySelector, displayTail } from './display.ts';
import { ALL_PORTS, portItem, readProtocol } from './ports.ts';
import { readRuleLabels } from './rule-labels.ts';
import { anyNamespace, inNamespace, isLocalByDefault, NAMESPACE_LABELS_PREFIX } from './scope.ts';
import { readSelector } from './selectors.ts';

/** Kubernetes NetworkPolicy (specification 18): one rule that only allows. */
export interface KubernetesReading {
  readonly namespace: string;
  readonly audit: boolean;
  readonly ownLabels: readonly string[];
}

/** Keys are taken verbatim: a `:` separates no source. */
const podKey = (written: string): readonly [string, string] => ['k8s', written];

function readPods(at: Cursor): Selector {
  return readSelector(at, { key: podKey });
}

/** Keys are checked as the namespace's own, then moved to where Cilium keeps them. */
function readNamespaces(at: Cursor): Selector {
  const written = readPods(at);
  return written.map((each) => ({ ...each, key: NAMESPACE_LABELS_PREFIX + each.key }));
}

export function readKubernetesRule(at: Cursor, reading: KubernetesReading): Rule {
  const fields = at.fields(['podSelector', 'ingress', 'egress', 'policyTypes']);
  const pods = fields.get('podSelector');
  const selector = [...(pods === undefined ? [] : readPods(pods)), ...inNamespace(reading.namespace)];
  const types = readTypes(fields);
  const ingress = readSection(fields, 'ingress', reading);
  const egress = readSection(fields, 'egress', reading);
  const isolatesIngress = ingress.length > 0 || types.includes('Ingress') || !types.includes('Egress');
  const isolatesEgress = egress.length > 0 || types.includes('Egress');
  const section = (allow: Entry[], isolates: boolean, name: string): RuleSection => ({
    allow: allow.length === 0 && isolates ? [isolation(at, name)] : allow,
    deny: [],
    defaultDeny: isolates,
  });
  const sections = {
    ingress: section(ingress, isolatesIngress, 'ingress'),
    egress: section(egress, isolatesEgress, 'egress'),
  };
  const labels = readRuleLabels([], reading.ownLabels);
  return {
    ref: { policy: at.context.policy, path: at.path, line: at.line },
    subject: { kind: 'endpoint', selector },
    ...sections,
    audit: reading.audit,
    display: {
      endpointSelector: displaySelector(selector),
      ...displaySpec(fields),
      ...displayTail({ ...sections, labels }, undefined),
    },
  };
}

function displaySpec(fields: Fields): Record<string, unknown> {
  const spec: Record<string, unknown> = {};
  for (const name of ['ingress', 'egress', 'policyTypes']) {
    const field = fields.get(name);
    if (field !== undefined) spec[name] = field.plain;
  }
  return spec;
}

function readTypes(fields: Fields): string[] {
  return (fields.items('policyTypes') ?? []).map((item) => {
    const type = item.string();
    return type === 'Ingress' || type === 'Egress' ? type : item.fail(`unknown policy type ${shown(type)}`);
  });
}

/** The entry that Cilium puts in for a direction without rules: it enforces, and selects nobody. */
function isolation(at: Cursor, name: string): Entry {
  const ref = { policy: at.context.policy, path: `${at.path}.${name}`, line: at.line };
  return { ref, peers: { kind: 'nobody' }, requires: [], ports: undefined, heldBack: [] };
}

function readSection(fields: Fields, name: 'ingress' | 'egress', reading: KubernetesReading): Entry[] {
  const way = name === 'ingress' ? 'from' : 'to';
  return (fields.items(name) ?? []).flatMap((item) => {
    const inner = item.fields([way, 'ports']);
    const ports = readPorts(inner.items('ports') ?? []);
    const entry = (at: Cursor, peers: Peers): Entry => ({
      ref: { policy: at.context.policy, path: at.path, line: at.line },
      peers,
      requires: [],
      ports,
      heldBack: [],
    });
    const peers = inner.items(way) ?? [];
    if (peers.length === 0) return [entry(item, { kind: 'everyone' })];
    return peers.map((peer) => entry(peer, readPeer(peer, reading)));
  });
}

function readPeer(at: Cursor, { namespace }: KubernetesReading): Peers {
  const fields = at.fields(['podSelector', 'namespaceSelector', 'ipBlock']);
  const pods = fields.get('podSelector');
  const namespaces = fields.get('namespaceSelector');
  const block = fields.get('ipBlock');
  if (block !== undefined) {
    if (pods !== undefined || namespaces !== undefined) at.fail('ipBlock may not stand beside another selector');
    return { kind: 'cidrs', items: [readBlock(block)] };
  }
  if (pods === undefined && namespaces === undefined) {
    return at.fail('a peer must have one of podSelector, namespaceSelector or ipBlock');
  }
  const podPart = pods === undefined ? [] : readPods(pods);
  const namespacePart = namespaces === undefined ? inNamespace(namespace) : orAny(readNamespaces(namespaces));
  const requirements = [...podPart, ...namespacePart];
  return { kind: 'endpoints', selectors: [{ requirements, localByDefault: isLocalByDefault(podPart) }] };
}

function orAny(selector: Selector): Selector {
  return selector.length === 0 ? anyNamespace : selector;
}

function readBlock(at: Cursor): CidrItem {
  const fields = at.fields(['cidr', 'except']);
  const prefix = (item: Cursor) => {
    const text = item.string();
    const read = text.includes('/') ? parsePrefix(text) : undefined;
    return read ?? item.fail(`Unable to parse CIDRRule ${shown(text)}: it must be an address with a prefix length`);
  };
  const cidr = fields.get('cidr') ?? at.fail('ipBlock must have a cidr');
  const within = prefix(cidr);
  const except = (fields.items('except') ?? []).map((item) => {
    const each = prefix(item);
    if (contains(within, each)) return each;
    return item.fail(`allow CIDR prefix ${cidr.string()} does not contain exclude CIDR prefix ${item.string()}`);
  });
  return { within, except };
}

/** Undefined for everything: no ports given (specification 18.6). */
function readPorts(items: readonly Cursor[]): PortMatch[] | undefined {
  if (items.length === 0) return undefined;
  return items.flatMap((item) => {
    const fields = item.fields(['port', 'endPort', 'protocol']);
    const protocols = readProtocol(fields.get('protocol'), 'TCP');
    const port = fields.get('port');
    if (port === undefined) return protocols.map((protocol) => ({ protocol, ...ALL_PORTS }));
    const endPort = fields.get('endPort')?.integer(0, 65535) ?? 0;
    return portItem(port, port.stringOrInteger(), { endPort, protocols }).matches;
  });
}
