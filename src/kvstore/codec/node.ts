import { type Address, formatAddress, type Prefix } from '../../core/ip.ts';
import {
  address,
  BadValue,
  encodeMask,
  type Fields,
  fieldsOf,
  goJson,
  ipNet,
  list,
  parseObject,
  quoted,
  stringMap,
  text,
  uint,
} from './json.ts';

/** A node as Cilium publishes it (kvstore specification 2.1). */
export interface NodeAddress {
  /** `InternalIP`, `ExternalIP`, `CiliumInternalIP` and others; any text, as for Cilium. */
  readonly type: string;
  readonly address: Address;
}

export interface Node {
  readonly name: string;
  readonly cluster: string;
  readonly clusterId: number;
  readonly addresses: readonly NodeAddress[];
  /** Ranges of the node, the primary one first in each family. */
  readonly ranges4: readonly Prefix[];
  readonly ranges6: readonly Prefix[];
  readonly healthAddresses: readonly Address[];
  readonly ingressAddresses: readonly Address[];
  readonly source: string;
  readonly labels: ReadonlyMap<string, string>;
  /** Left out when there are none; null is written as null. */
  readonly annotations?: ReadonlyMap<string, string> | null;
  readonly nodeIdentity: number;
  readonly bootId: string;
}

/** A node of `nodes/v1`. @throws BadValue */
export function decodeNode(
  key: string,
  value: Buffer,
  expected: { readonly cluster: string; readonly clusterId: number },
): Node {
  const node = decodeNodeValue(value);
  if (node.name === '' || node.cluster === '') throw new BadValue('Name or Cluster is empty');
  if (node.name !== key) throw new BadValue(`Name ${quoted(node.name)} is not the key's last part`);
  if (node.cluster !== expected.cluster)
    throw new BadValue(`Cluster ${quoted(node.cluster)} is not ${expected.cluster}`);
  if (expected.clusterId !== 0 && node.clusterId !== expected.clusterId)
    throw new BadValue(`ClusterID ${node.clusterId} is not ${expected.clusterId}`);
  return node;
}

/** The type alone, without the checks of a published node: registrations may be empty. @throws BadValue */
export function decodeNodeValue(value: Buffer): Node {
  const fields = parseObject(value);
  const range = (name: string): Prefix | undefined => ipNet(fields.get(name.toLowerCase()), name);
  const ranges = (family: 4 | 6): Prefix[] =>
    [
      range(`IPv${family}AllocCIDR`),
      ...list(fields, `IPv${family}SecondaryAllocCIDRs`).map((item) => ipNet(item, `IPv${family}SecondaryAllocCIDRs`)),
    ].filter((prefix) => prefix !== undefined);
  const addresses = (...names: string[]): Address[] =>
    names.map((name) => address(fields, name)).filter((found) => found !== undefined);
  return {
    name: text(fields, 'Name'),
    cluster: text(fields, 'Cluster'),
    clusterId: uint(fields, 'ClusterID', 511),
    addresses: list(fields, 'IPAddresses').flatMap(nodeAddress),
    ranges4: ranges(4),
    ranges6: ranges(6),
    healthAddresses: addresses('IPv4HealthIP', 'IPv6HealthIP'),
    ingressAddresses: addresses('IPv4IngressIP', 'IPv6IngressIP'),
    source: text(fields, 'Source'),
    labels: stringMap(fields, 'Labels'),
    ...annotationsOf(fields),
    nodeIdentity: uint(fields, 'NodeIdentity'),
    bootId: text(fields, 'BootID'),
  };
}

function annotationsOf(fields: Fields): Pick<Node, 'annotations'> {
  const annotations = stringMap(fields, 'Annotations');
  return annotations.size === 0 ? {} : { annotations };
}

function nodeAddress(item: unknown): NodeAddress[] {
  const fields: Fields = fieldsOf(item ?? {}, 'IPAddresses');
  const type = text(fields, 'Type');
  const found = address(fields, 'IP');
  return found === undefined ? [] : [{ type, address: found }];
}

/** The tunnel endpoint: first InternalIP, else the last ExternalIP, else the first of another type but CiliumInternalIP. */
export function nodeIp(node: Node, family: 4 | 6): Address | undefined {
  const own = node.addresses.filter(({ address, type }) => address.family === family && type !== 'CiliumInternalIP');
  const internal = own.find(({ type }) => type === 'InternalIP');
  return (internal ?? own.findLast(({ type }) => type === 'ExternalIP') ?? own[0])?.address;
}

/** Go's field order, every field present. */
export function encodeNode(node: Node): string {
  const net = (prefix: Prefix | undefined): object | null =>
    prefix === undefined ? null : { IP: formatAddress(prefix), Mask: encodeMask(prefix) };
  const more = (prefixes: readonly Prefix[]): (object | null)[] | null =>
    prefixes.length > 1 ? prefixes.slice(1).map(net) : null;
  const ip = (addresses: readonly Address[], family: 4 | 6): string => {
    const found = addresses.find((candidate) => candidate.family === family);
    return found === undefined ? '' : formatAddress(found);
  };
  return goJson({
    Name: node.name,
    Cluster: node.cluster,
    IPAddresses:
      node.addresses.length === 0
        ? null
        : node.addresses.map(({ type, address }) => ({ Type: type, IP: formatAddress(address) })),
    IPv4AllocCIDR: net(node.ranges4[0]),
    IPv4SecondaryAllocCIDRs: more(node.ranges4),
    IPv6AllocCIDR: net(node.ranges6[0]),
    IPv6SecondaryAllocCIDRs: more(node.ranges6),
    IPv4HealthIP: ip(node.healthAddresses, 4),
    IPv6HealthIP: ip(node.healthAddresses, 6),
    IPv4IngressIP: ip(node.ingressAddresses, 4),
    IPv6IngressIP: ip(node.ingressAddresses, 6),
    ClusterID: node.clusterId,
    Source: node.source,
    EncryptionKey: 0,
    Labels: node.labels.size === 0 ? null : node.labels,
    // Cilium's agent writes an empty object in the second phase of a registration, null in the first.
    Annotations: node.annotations === undefined ? (node.nodeIdentity === 0 ? null : {}) : node.annotations,
    NodeIdentity: node.nodeIdentity,
    WireguardPubKey: '',
    BootID: node.bootId,
  });
}
