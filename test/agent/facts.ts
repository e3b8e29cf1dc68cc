import { identity } from '../../src/core/identity.ts';
import { type Address, type Prefix, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import { labelSet, parseLabel } from '../../src/core/labels.ts';
import type { Node } from '../../src/kvstore/codec/node.ts';
import type { Source } from '../../src/mesh/origin.ts';
import type { Registered } from '../../src/mesh/registration.ts';
import { Tables } from '../../src/mesh/tables.ts';

/** Short ways to facts for tests. */
export function address(text: string): Address {
  const found = parseAddress(text);
  if (found === undefined) throw new Error(`${text} is no address`);
  return found;
}

export function prefix(text: string): Prefix {
  const found = parsePrefix(text);
  if (found === undefined) throw new Error(`${text} is no prefix`);
  return found;
}

export const emptyTables = (): Tables => new Tables(() => {});

/** `cluster/name`, its addresses (the last may be `router:`, its address inside of the mesh), and its ranges. */
export function nodeFact(owner: string, addresses: readonly string[], ranges: readonly string[] = []): Node {
  const [cluster = '', name = ''] = owner.split('/');
  const prefixes = ranges.map(prefix);
  return {
    name,
    cluster,
    clusterId: 1,
    addresses: addresses.map((text) =>
      text.startsWith('router:')
        ? { type: 'CiliumInternalIP', address: address(text.slice('router:'.length)) }
        : { type: 'InternalIP', address: address(text) },
    ),
    ranges4: prefixes.filter(({ family }) => family === 4),
    ranges6: prefixes.filter(({ family }) => family === 6),
    healthAddresses: [],
    ingressAddresses: [],
    source: 'custom-resource',
    labels: new Map(),
    nodeIdentity: 0,
    bootId: '',
  };
}

export function putNode(tables: Tables, node: Node): void {
  const origin = tables.origins.of(node.cluster, 'kvstore');
  tables.nodes.put(origin, 1, `${node.cluster}/${node.name}`, node);
}

export function removeNode(tables: Tables, owner: string): void {
  tables.nodes.remove(tables.origins.of(owner.split('/')[0] ?? '', 'kvstore'), owner);
}

export interface Claimed {
  readonly id: number;
  readonly host?: string;
  readonly cluster?: string;
  readonly source?: Source;
}

/** An address, or a prefix where the text has a length. */
export function claim(tables: Tables, text: string, { id, host, cluster = 'a', source = 'kvstore' }: Claimed): void {
  const { bits, ...where } = prefix(text);
  tables.ipcache.claim(tables.origins.of(cluster, source), 1, {
    address: where,
    bits: text.includes('/') ? bits : undefined,
    identity: id,
    tunnelEndpoint: host === undefined ? undefined : address(host),
  });
}

export function putIdentity(tables: Tables, id: number, labels: readonly string[], cluster = 'a'): void {
  const origin = tables.origins.of(cluster, 'kvstore');
  tables.identities.put(origin, 1, identity(id), { cluster, labels: labelSet(labels.map(parseLabel)) });
}

export function removeIdentity(tables: Tables, id: number, cluster = 'a'): void {
  tables.identities.remove(tables.origins.of(cluster, 'kvstore'), identity(id));
}

export function registeredAs(fields: Partial<Registered> = {}): Registered {
  return {
    cluster: { name: 'a', id: 1 },
    identity: identity(65_537 + 1000),
    labels: labelSet(['k8s:app=backend', 'k8s:io.kubernetes.pod.namespace=production'].map(parseLabel)),
    ranges4: [prefix('10.192.1.0/24')],
    ranges6: [],
    ...fields,
  };
}
