import { type Address, formatAddress, type Prefix } from '../../core/ip.ts';
import { encodeMask, goJson } from '../../kvstore/codec/json.ts';
import { encodeNode, type Node, type NodeAddress, nodeIp } from '../../kvstore/codec/node.ts';
import { factPrefix } from '../../kvstore/paths.ts';
import { rangesOf, type Workload } from '../workloads/workload.ts';

export interface MachineFactsOptions {
  readonly workload: Workload;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly identity: number;
  /** Those that were found good, in the machine's order. */
  readonly addresses: readonly NodeAddress[];
  readonly healthAddresses: readonly Address[];
}

/** What is published of one machine: whole keys with their values; a node first, then its addresses and ranges. */
export type MachineFacts = ReadonlyMap<string, string>;

/** A node that was reported, and on whom nothing else is known than that it is remote. */
const REMOTE_NODE = 6;

/**
 * Node, addresses and ranges of a machine in the cluster of the hub (kvstore specification 11.3). Nothing without an address of the
 * machine itself: a node needs one.
 *
 * `NodeIdentity` is 6 for everybody. Peers up to 1.19 would make an identity of their own of any other number (2.1). A Cilium
 * 1.16 agent that joined the hub reads the same keys as its own cluster's: there, too, the plain entry of `ip/v1` for a
 * machine's address wins over what its node says of it (4.10), so it sees the machine's identity.
 */
export function machineFacts(options: MachineFactsOptions): MachineFacts {
  const { workload, cluster, identity, addresses } = options;
  const node = nodeOf(options);
  const host = nodeIp(node, 4) ?? nodeIp(node, 6);
  const facts = new Map<string, string>();
  if (host === undefined) return facts;
  facts.set(factPrefix('nodes', cluster.name, 'direct') + workload.name, encodeNode(node));
  const pair = { host, identity, namespace: workload.namespace, pod: workload.name };
  for (const { address } of addresses) facts.set(addressKey(address), encodeAddress({ ...pair, address }));
  // What runs behind the machine, in containers or local machines, is the machine: one identity.
  for (const range of rangesOf(workload)) facts.set(addressKey(range), encodeAddress({ ...pair, address: range }));
  return facts;
}

/** The tunnel endpoint is IPv4 where there is one: the underlay of a mesh has one family, and that is what it is by default. */
function nodeOf({ workload, cluster, addresses, healthAddresses }: MachineFactsOptions): Node {
  return {
    name: workload.name,
    cluster: cluster.name,
    clusterId: cluster.id,
    addresses,
    ranges4: workload.range4 === undefined ? [] : [workload.range4],
    ranges6: workload.range6 === undefined ? [] : [workload.range6],
    healthAddresses,
    ingressAddresses: [],
    source: 'kvstore',
    labels: new Map([['kubernetes.io/hostname', workload.name]]),
    annotations: null,
    nodeIdentity: REMOTE_NODE,
    bootId: '',
  };
}

export interface PublishedAddress {
  /** A prefix has `bits`, and stays a prefix even if it holds one address. */
  readonly address: Address | Prefix;
  readonly host: Address;
  readonly identity: number;
  readonly namespace: string;
  readonly pod: string;
}

/** An IPIdentityPair as the apiserver writes it (specification 2.3). */
export function encodeAddress({ address, host, identity, namespace, pod }: PublishedAddress): string {
  return goJson({
    IP: formatAddress(address),
    Mask: 'bits' in address ? encodeMask(address) : null,
    HostIP: formatAddress(host),
    ID: identity,
    Key: 0,
    Metadata: '',
    K8sNamespace: namespace,
    K8sPodName: pod,
  });
}

export function addressKey(address: Address | Prefix): string {
  const text = formatAddress(address);
  return factPrefix('endpoints', '', 'direct') + ('bits' in address ? `${text}/${address.bits}` : text);
}
