import {
  type Address,
  addressBits,
  contains,
  formatAddress,
  formatPrefix,
  type Prefix,
  type Words,
} from '../core/ip.ts';
import { type Node, nodeIp } from '../kvstore/codec/node.ts';
import { type Ipcache, isIn } from '../mesh/ipcache.ts';
import type { Tables } from '../mesh/tables.ts';
import { isOfNobody } from './of-nobody.ts';
import { RouteIndex } from './route-index.ts';

export interface Route {
  readonly prefix: Prefix;
  readonly via: Address;
}

interface Candidate extends Route {
  readonly owner: string;
}

export interface RouteInputs {
  /** Addresses of this machine, and others that must stay reachable as they are: gateways, stores. */
  readonly own: readonly Address[];
  readonly others: readonly Address[];
  /** Ranges that this machine was given. */
  readonly ownRanges: readonly Prefix[];
  /** Families in which the machine has an address of its own. */
  readonly families: readonly (4 | 6)[];
  /** The cluster that this machine joined: its word counts more than that of others. */
  readonly joined: string | undefined;
  readonly isSelf: (node: Node) => boolean;
}

/** Narrower than that a range must be: nobody owns half of all addresses. */
const MIN_BITS = { 4: 8, 6: 16 } as const;

/**
 * Which addresses lie behind which node: the ranges that nodes publish, prefixes with a tunnel endpoint, and the single
 * addresses that no range leads to. What would cut the machine off from its nodes, stores or gateway is refused.
 */
export class OverlayRoutes {
  readonly #ipcache: Ipcache;
  readonly #tables: Tables;
  #ranges: readonly Route[] = [];
  /** For the question which range covers an address. */
  #index = new RouteIndex<Route>([]);
  #protected: ReadonlySet<string> = new Set();
  #own: ReadonlySet<string> = new Set();
  #ownRanges = new RouteIndex<{ readonly prefix: Prefix }>([]);
  /** Other tunnel endpoints of nodes whose usual one this machine cannot reach, for want of an address of that family. */
  #detours: ReadonlyMap<string, Address> = new Map();
  #refused: readonly string[] = [];
  #fingerprint = '';

  constructor(tables: Tables) {
    this.#tables = tables;
    this.#ipcache = tables.ipcache;
  }

  /** Ranges that are not routed, each with the reason. */
  get refused(): readonly string[] {
    return this.#refused;
  }

  prefixRoutes(): readonly Route[] {
    return this.#ranges;
  }

  /** Works the ranges out anew. @returns whether any route changed */
  refresh(inputs: RouteInputs): boolean {
    const { own, others, ownRanges, isSelf } = inputs;
    const peers = [...this.#tables.nodes.values()].filter((node) => !isSelf(node));
    this.#own = new Set(own.map(formatAddress));
    this.#ownRanges = new RouteIndex(ownRanges.map((prefix) => ({ prefix })));
    this.#detours = detours(peers, inputs.families);
    const guarded = [...own, ...others, ...peers.flatMap(outerAddresses)];
    this.#protected = new Set(guarded.map(formatAddress));
    const { ranges, refused } = this.#choose(peers, inputs);
    for (const { prefix, owner, address } of new RouteIndex(ranges.values()).holders(guarded)) {
      if (ranges.delete(formatPrefix(prefix)))
        refused.push(`${told(prefix, owner)}: holds ${formatAddress(address)}, which must stay reachable as it is`);
    }
    this.#refused = refused;
    this.#ranges = [...ranges.values()];
    this.#index = new RouteIndex(this.#ranges);
    const before = this.#fingerprint;
    this.#fingerprint = this.#print(ownRanges);
    return this.#fingerprint !== before;
  }

  /** The tunnel endpoint of one address, unless a range already leads there or it must stay reachable as it is. */
  hostRoute(family: 4 | 6, key: Words): Address | undefined {
    const via = this.#reachable(this.#ipcache.hostOf(family, key));
    if (via === undefined || isOfNobody({ family, words: key })) return undefined;
    const viaText = formatAddress(via);
    if (this.#own.has(viaText)) return undefined;
    const address: Address = { family, words: Array.from(key) };
    const text = formatAddress(address);
    // A node that is its own tunnel endpoint (another machine like us) cannot be reached through itself.
    if (text === viaText || this.#protected.has(text)) return undefined;
    if (this.#ownRanges.covering(address) !== undefined) return undefined;
    const covering = this.#index.covering(address);
    return covering !== undefined && formatAddress(covering.via) === viaText ? undefined : via;
  }

  *hostRoutes(): Iterable<Route> {
    for (const [hosts, family] of [
      [this.#ipcache.hosts4, 4],
      [this.#ipcache.hosts6, 6],
    ] as const) {
      const keys = hosts.table.keys();
      const width = hosts.table.keyWords;
      for (let at = 0; at < keys.length; at += width) {
        const words = Array.from(keys.subarray(at, at + width));
        const via = this.hostRoute(family, words);
        if (via !== undefined) yield { prefix: { family, words, bits: addressBits(family) }, via };
      }
    }
  }

  /** One owner for each range: the joined cluster, then prefixes of the ipcache, then the first node by name. */
  #choose(peers: readonly Node[], inputs: RouteInputs): { ranges: Map<string, Candidate>; refused: string[] } {
    const ranges = new Map<string, Candidate>();
    const refused: string[] = [];
    for (const candidate of this.#candidates(peers, inputs.joined)) {
      const { prefix, owner, via } = candidate;
      const text = formatPrefix(prefix);
      const winner = ranges.get(text);
      const reason = winner === undefined ? refusal(candidate, inputs.ownRanges) : undefined;
      if (reason !== undefined) refused.push(`${told(prefix, owner)}: ${reason}`);
      else if (winner === undefined) ranges.set(text, candidate);
      else if (formatAddress(winner.via) !== formatAddress(via))
        refused.push(`${told(prefix, owner)}: leads to ${winner.owner}, which announces it as well`);
    }
    return { ranges, refused };
  }

  *#candidates(peers: readonly Node[], joined: string | undefined): Iterable<Candidate> {
    const named = peers.map((node) => ({ node, owner: `${node.cluster}/${node.name}` }));
    const sorted = named.sort((a, b) => (a.owner < b.owner ? -1 : 1));
    yield* this.#ofNodes(sorted.filter(({ node }) => node.cluster === joined));
    for (const { prefix, via } of this.#ipcache.prefixes()) {
      const reachable = this.#reachable(via);
      // What leads to this machine is its own range, as its hub publishes it for others.
      if (reachable === undefined || this.#own.has(formatAddress(reachable))) continue;
      yield { prefix, via: reachable, owner: 'an address entry' };
    }
    yield* this.#ofNodes(sorted.filter(({ node }) => node.cluster !== joined));
  }

  *#ofNodes(nodes: readonly { readonly node: Node; readonly owner: string }[]): Iterable<Candidate> {
    for (const { node, owner } of nodes) {
      // One overlay has one outer family; IPv4 where a node has both (kvstore specification 9.2), if we have it, too.
      const via = this.#reachable(nodeIp(node, 4) ?? nodeIp(node, 6));
      if (via === undefined) continue;
      for (const prefix of [...node.ranges4, ...node.ranges6]) yield { prefix, via, owner };
    }
  }

  #reachable(via: Address | undefined): Address | undefined {
    if (via === undefined || this.#detours.size === 0) return via;
    return this.#detours.get(formatAddress(via)) ?? via;
  }

  #print(ownRanges: readonly Prefix[]): string {
    const routes = this.#ranges.map(({ prefix, via }) => `${formatPrefix(prefix)} ${formatAddress(via)}`);
    const lists = [routes, [...this.#protected], ownRanges.map(formatPrefix), [...this.#detours.keys()]];
    return lists.map((list) => list.sort().join(' ')).join('\n');
  }
}

function refusal({ prefix, via }: Route, ownRanges: readonly Prefix[]): string | undefined {
  if (prefix.bits < MIN_BITS[prefix.family]) return `wider than /${MIN_BITS[prefix.family]}`;
  if (isOfNobody(prefix)) return 'is no range of ordinary addresses';
  if (isIn(prefix, via)) return `holds its own tunnel endpoint ${formatAddress(via)}`;
  const own = ownRanges.find((range) => contains(range, prefix) || contains(prefix, range));
  return own === undefined ? undefined : `overlaps ${formatPrefix(own)}, which is of this machine`;
}

/** What outer packets go to: a router address lies in its own range. */
function outerAddresses(node: Node): Address[] {
  return node.addresses.filter(({ type }) => type !== 'CiliumInternalIP').map(({ address }) => address);
}

function detours(peers: readonly Node[], families: RouteInputs['families']): Map<string, Address> {
  const found = new Map<string, Address>();
  const [only, more] = families;
  if (only === undefined || more !== undefined) return found;
  for (const node of peers) {
    const [from, to] = [nodeIp(node, only === 4 ? 6 : 4), nodeIp(node, only)];
    if (from !== undefined && to !== undefined) found.set(formatAddress(from), to);
  }
  return found;
}

function told(prefix: Prefix, owner: string): string {
  return `${formatPrefix(prefix)} of ${owner}`;
}
