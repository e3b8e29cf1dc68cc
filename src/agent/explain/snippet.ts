import { stringify } from 'yaml';
import { formatAddress } from '../../core/ip.ts';
import { CLUSTER_LABEL, findLabel, type LabelSet, NAMESPACE_LABEL } from '../../core/labels.ts';
import { isEntity } from '../../policy/entities.ts';
import { PROTOCOL } from '../../policy/result.ts';
import type { Party } from './party.ts';
import { type AskedPort, isIcmp, protocolWord } from './question.ts';

export interface WantedFlow {
  readonly direction: 'ingress' | 'egress';
  readonly machine: Party;
  readonly peer: Party;
  readonly port: AskedPort | undefined;
}

/** A policy that allows one flow and little else, as YAML; undefined when the peer cannot be named in one. */
export function allowingPolicy(flow: WantedFlow): string | undefined {
  const { direction, machine, peer, port } = flow;
  const peers = peersOf(peer, direction);
  const selector = labelsOf(machine.labels);
  if (peers === undefined || Object.keys(selector).length === 0) return undefined;
  const namespace = findLabel(machine.labels, NAMESPACE_LABEL)?.value;
  const entry = { ...peers.entry, ...portsOf(port) };
  const name = [
    'allow',
    direction,
    peers.word,
    ...(port === undefined ? [] : [protocolWord(port.protocol), port.port]),
  ];
  return stringify(
    {
      apiVersion: 'cilium.io/v2',
      kind: namespace === undefined ? 'CiliumClusterwideNetworkPolicy' : 'CiliumNetworkPolicy',
      metadata: { name: objectName(name.join('-')), ...(namespace !== undefined && { namespace }) },
      spec: { endpointSelector: { matchLabels: selector }, [direction]: [entry] },
    },
    { lineWidth: 0 },
  );
}

interface Peers {
  readonly entry: object;
  /** For the name of the policy. */
  readonly word: string;
}

function peersOf(peer: Party, direction: 'ingress' | 'egress'): Peers | undefined {
  const side = direction === 'ingress' ? 'from' : 'to';
  const reserved = peer.labels.filter(({ source }) => source === 'reserved').map(({ key }) => key);
  const world = reserved.some((key) => key.startsWith('world'));
  const [name] = peer.record.names ?? [];
  if (direction === 'egress' && world && name !== undefined)
    return { entry: { toFQDNs: [{ matchName: name }] }, word: name };
  if (world && peer.address !== undefined) {
    const text = formatAddress(peer.address);
    return { entry: { [`${side}CIDR`]: [`${text}/${peer.address.family === 4 ? 32 : 128}`] }, word: text };
  }
  const [entity] = reserved;
  if (entity !== undefined)
    return isEntity(entity) ? { entry: { [`${side}Entities`]: [entity] }, word: entity } : undefined;
  const matchLabels = labelsOf(peer.labels);
  if (Object.keys(matchLabels).length === 0) return undefined;
  const word =
    findLabel(peer.labels, 'app')?.value || findLabel(peer.labels, 'k8s-app')?.value || String(peer.identity);
  // Without a word on the namespace, the policy's kind or its own namespace would add one.
  const nowhere = findLabel(peer.labels, NAMESPACE_LABEL) === undefined;
  const expressions = [{ key: `k8s:${NAMESPACE_LABEL}`, operator: 'DoesNotExist' }];
  const selector = { matchLabels, ...(nowhere && { matchExpressions: expressions }) };
  return { entry: { [`${side}Endpoints`]: [selector] }, word };
}

const NAMESPACE_LABELS = 'io.cilium.k8s.namespace.labels.';
const SERVICE_ACCOUNT = 'io.cilium.k8s.policy.serviceaccount';

/** Labels that tell who somebody is; of those that Cilium adds by itself, namespace and cluster. */
function labelsOf(labels: LabelSet): Record<string, string> {
  const chosen = labels.filter(
    ({ source, key }) =>
      source !== 'reserved' &&
      source !== 'cidr' &&
      source !== 'fqdn' &&
      !key.startsWith(NAMESPACE_LABELS) &&
      key !== SERVICE_ACCOUNT,
  );
  const own = chosen.filter(({ key }) => key !== CLUSTER_LABEL && key !== NAMESPACE_LABEL);
  // Whoever has no labels of his own cannot be told from the rest of his namespace.
  return own.length === 0
    ? {}
    : Object.fromEntries(chosen.map(({ source, key, value }) => [`${source}:${key}`, value]));
}

function portsOf(port: AskedPort | undefined): object {
  if (port === undefined) return {};
  const { protocol, port: number } = port;
  if (isIcmp(protocol)) {
    const family = protocol === PROTOCOL.icmp ? 'IPv4' : 'IPv6';
    return { icmps: [{ fields: [{ type: number, family }] }] };
  }
  return { toPorts: [{ ports: [{ port: String(number), protocol: protocolWord(protocol).toUpperCase() }] }] };
}

function objectName(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, '-')
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '')
    .slice(0, 63)
    .replace(/[^a-z0-9]+$/, '');
}
