import { identityBlock, type MaxClusters, RESERVED } from '../core/identity.ts';
import { type Address, formatAddress } from '../core/ip.ts';
import { type Node, nodeIp } from '../kvstore/codec/node.ts';
import type { Ipcache } from './ipcache.ts';
import type { Origin, Origins } from './origin.ts';

interface NodeClaim {
  readonly address: Address;
  readonly identity: number;
  readonly tunnelEndpoint: Address | undefined;
}

/** What the nodes of one origin say of one address. */
interface Named {
  readonly byNode: Map<string, NodeClaim>;
  /** The node that counts. */
  first: string;
}

/** Of the cluster of a node. */
export interface NodeOwner {
  /** It is the one that this machine joined. */
  readonly joined: boolean;
  readonly max: MaxClusters;
}

/**
 * What the nodes of a cluster say of addresses (kvstore specification 3.4, 9.2): node addresses are `remote-node` and
 * reached natively; the router, health and ingress addresses lie behind the node's tunnel. When several nodes name one
 * address, the one whose name sorts first counts, until it is gone.
 */
export class NodeAddresses {
  readonly #ipcache: Ipcache;
  readonly #origins: Origins;
  /** By origin and address. */
  readonly #named = new Map<string, Named>();
  readonly #byNode = new Map<string, { readonly origin: Origin; readonly claims: ReadonlyMap<string, NodeClaim> }>();

  constructor(ipcache: Ipcache, origins: Origins) {
    this.#ipcache = ipcache;
    this.#origins = origins;
  }

  put(node: Node, owner: NodeOwner): void {
    const name = `${node.cluster}/${node.name}`;
    const origin = this.#origins.of(node.cluster, owner.joined ? 'node' : 'clustermesh-node');
    const claims = new Map(claimsOf(node, owner).map((claim) => [formatAddress(claim.address), claim]));
    const before = this.#byNode.get(name);
    this.#byNode.set(name, { origin, claims });
    for (const [text, { address }] of before?.claims ?? [])
      if (before !== undefined && (before.origin !== origin || !claims.has(text)))
        this.#unclaim(before.origin, name, address);
    for (const claim of claims.values()) this.#claim(origin, name, claim);
  }

  remove(cluster: string, nodeName: string): void {
    const name = `${cluster}/${nodeName}`;
    const before = this.#byNode.get(name);
    if (before === undefined) return;
    this.#byNode.delete(name);
    for (const { address } of before.claims.values()) this.#unclaim(before.origin, name, address);
  }

  #claim(origin: Origin, name: string, claim: NodeClaim): void {
    const key = keyOf(origin, claim.address);
    const named = this.#named.get(key) ?? { byNode: new Map<string, NodeClaim>(), first: name };
    this.#named.set(key, named);
    named.byNode.set(name, claim);
    if (name < named.first) named.first = name;
    if (name === named.first) this.#ipcache.claim(origin, 0, { ...claim, bits: undefined });
  }

  #unclaim(origin: Origin, name: string, address: Address): void {
    const key = keyOf(origin, address);
    const named = this.#named.get(key);
    if (named?.byNode.delete(name) !== true) return;
    if (named.byNode.size === 0) {
      this.#named.delete(key);
      this.#ipcache.withdraw(origin, address, undefined);
    } else if (named.first === name) {
      // Thousands of nodes may name one address: the least name, not a sorted list.
      let least: readonly [string, NodeClaim] | undefined;
      for (const entry of named.byNode) if (least === undefined || entry[0] < least[0]) least = entry;
      if (least === undefined) return;
      named.first = least[0];
      this.#ipcache.claim(origin, 0, { ...least[1], bits: undefined });
    }
  }
}

function keyOf(origin: Origin, address: Address): string {
  return `${origin.index} ${formatAddress(address)}`;
}

function claimsOf(node: Node, owner: NodeOwner): NodeClaim[] {
  // The overlay's outer family is the one of the node's own address; IPv4 where there are both (specification 9.2).
  const tunnelEndpoint = nodeIp(node, 4) ?? nodeIp(node, 6);
  const identity = owner.joined ? workloadIdentity(node, owner.max) : RESERVED.remoteNode;
  const behind = (address: Address, reserved: number): NodeClaim => ({ address, identity: reserved, tunnelEndpoint });
  return [
    ...node.addresses.map(({ type, address }) =>
      type === 'CiliumInternalIP'
        ? behind(address, RESERVED.remoteNode)
        : { address, identity, tunnelEndpoint: undefined },
    ),
    ...node.healthAddresses.map((address) => behind(address, RESERVED.health)),
    ...node.ingressAddresses.map((address) => behind(address, RESERVED.ingress)),
  ];
}

/** In its own cluster a node may be an external workload, with an identity of that cluster (specification 2.1). */
function workloadIdentity(node: Node, max: MaxClusters): number {
  const [first, last] = identityBlock(node.clusterId, max);
  return node.nodeIdentity >= first && node.nodeIdentity <= last ? node.nodeIdentity : RESERVED.remoteNode;
}
