import { identityBlock, type MaxClusters, RESERVED } from '../core/identity.ts';
import { type Address, formatAddress } from '../core/ip.ts';
import { type Node, nodeIp } from '../kvstore/codec/node.ts';
import type { Ipcache } from './ipcache.ts';
import type { Origins } from './origin.ts';

interface NodeClaim {
  readonly address: Address;
  readonly identity: number;
  readonly tunnelEndpoint: Address | undefined;
}

/**
 * What the nodes of a cluster say of addresses (kvstore specification 3.4, 9.2): node addresses are `remote-node` and
 * reached natively; the router, health and ingress addresses lie behind the node's tunnel. When several nodes name one
 * address, the one whose key sorts first counts, until it is gone.
 */
export class NodeAddresses {
  readonly #ipcache: Ipcache;
  readonly #origins: Origins;
  /** Cluster and address to the claims by node. */
  readonly #claims = new Map<string, Map<string, NodeClaim>>();
  readonly #byNode = new Map<string, readonly NodeClaim[]>();

  constructor(ipcache: Ipcache, origins: Origins) {
    this.#ipcache = ipcache;
    this.#origins = origins;
  }

  /** `own` tells that the node is of the cluster that this machine joined. */
  put(node: Node, own: boolean): void {
    const name = `${node.cluster}/${node.name}`;
    const claims = claimsOf(node, own);
    const before = this.#byNode.get(name) ?? [];
    this.#byNode.set(name, claims);
    const kept = new Set(claims.map(({ address }) => formatAddress(address)));
    for (const { address } of before) if (!kept.has(formatAddress(address))) this.#unclaim(node.cluster, name, address);
    for (const claim of claims) this.#claim(node.cluster, name, claim);
  }

  remove(cluster: string, nodeName: string): void {
    const name = `${cluster}/${nodeName}`;
    for (const { address } of this.#byNode.get(name) ?? []) this.#unclaim(cluster, name, address);
    this.#byNode.delete(name);
  }

  #claim(cluster: string, name: string, claim: NodeClaim): void {
    const key = `${cluster} ${formatAddress(claim.address)}`;
    const claims = this.#claims.get(key) ?? new Map<string, NodeClaim>();
    this.#claims.set(key, claims.set(name, claim));
    this.#settle(cluster, claims, claim.address);
  }

  #unclaim(cluster: string, name: string, address: Address): void {
    const key = `${cluster} ${formatAddress(address)}`;
    const claims = this.#claims.get(key);
    if (claims?.delete(name) !== true) return;
    if (claims.size === 0) this.#claims.delete(key);
    this.#settle(cluster, claims, address);
  }

  #settle(cluster: string, claims: ReadonlyMap<string, NodeClaim>, address: Address): void {
    const origin = this.#origins.of(cluster, 'node');
    const first = [...claims.keys()].sort()[0];
    const claim = first === undefined ? undefined : claims.get(first);
    if (claim === undefined) this.#ipcache.withdraw(origin, address, undefined);
    else this.#ipcache.claim(origin, 0, { ...claim, bits: undefined });
  }
}

function claimsOf(node: Node, own: boolean): NodeClaim[] {
  // The overlay's outer family is the one of the node's own address; IPv4 where there are both (specification 9.2).
  const tunnelEndpoint = nodeIp(node, 4) ?? nodeIp(node, 6);
  const identity = own ? workloadIdentity(node) : RESERVED.remoteNode;
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
function workloadIdentity(node: Node, max: MaxClusters = 255): number {
  const [first, last] = identityBlock(node.clusterId, max);
  return node.nodeIdentity >= first && node.nodeIdentity <= last ? node.nodeIdentity : RESERVED.remoteNode;
}
