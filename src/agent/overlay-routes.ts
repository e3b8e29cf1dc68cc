import {
  type Address,
  addressBits,
  formatAddress,
  formatPrefix,
  type Prefix,
  prefixOf,
  type Words,
} from '../core/ip.ts';
import { type Node, nodeIp } from '../kvstore/codec/node.ts';
import { type Ipcache, isIn } from '../mesh/ipcache.ts';
import type { Tables } from '../mesh/tables.ts';

export interface Route {
  readonly prefix: Prefix;
  readonly via: Address;
}

interface Candidate extends Route {
  readonly owner: string;
}

/** What no cluster may take over: our own addresses and gateways, the stores, the nodes themselves. */
export interface Protected {
  readonly own: readonly Address[];
  readonly others: readonly Address[];
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
  /** Ranges by family and length, longest first, for the question which one covers an address. */
  #index: readonly Level<Route>[] = [];
  #protected = new Set<string>();
  #own = new Set<string>();
  #refused: readonly string[] = [];

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
  refresh(guarded: Protected, isSelf: (node: Node) => boolean): boolean {
    const nodes = [...this.#tables.nodes.values()];
    const peers = nodes.filter((node) => !isSelf(node));
    const nodeAddresses = peers.flatMap((node) =>
      node.addresses.filter(({ type }) => type !== 'CiliumInternalIP').map(({ address }) => address),
    );
    const all = [...guarded.own, ...guarded.others, ...nodeAddresses];
    const refused: string[] = [];
    const ranges = new Map<string, Candidate>();
    for (const candidate of this.#candidates(peers)) {
      const reason = refusal(candidate);
      if (reason === undefined) ranges.set(formatPrefix(candidate.prefix), candidate);
      else refused.push(`${formatPrefix(candidate.prefix)} of ${candidate.owner}: ${reason}`);
    }
    // Asked per address and length, not per pair: there may be thousands of both.
    const index = indexed(ranges.values());
    for (const address of all) {
      for (const { prefix, owner } of holding(index, address)) {
        if (!ranges.delete(formatPrefix(prefix))) continue;
        refused.push(
          `${formatPrefix(prefix)} of ${owner}: holds ${formatAddress(address)}, which must stay reachable as it is`,
        );
      }
    }
    const before = fingerprint(this.#ranges, this.#protected);
    this.#refused = refused;
    this.#ranges = [...ranges.values()];
    this.#own = new Set(guarded.own.map(formatAddress));
    this.#protected = new Set(all.map(formatAddress));
    this.#index = indexed(this.#ranges);
    return fingerprint(this.#ranges, this.#protected) !== before;
  }

  /** The tunnel endpoint of one address, unless a range already leads there or it must stay reachable as it is. */
  hostRoute(family: 4 | 6, key: Words): Address | undefined {
    const via = this.#ipcache.hostOf(family, key);
    if (via === undefined) return undefined;
    const viaText = formatAddress(via);
    if (this.#own.has(viaText)) return undefined;
    const address: Address = { family, words: Array.from(key) };
    const text = formatAddress(address);
    // A node that is its own tunnel endpoint (another machine like us) cannot be reached through itself.
    if (text === viaText || this.#protected.has(text)) return undefined;
    const covering = holding(this.#index, address)[0];
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

  *#candidates(peers: readonly Node[]): Iterable<Candidate> {
    for (const node of [...peers].sort((a, b) => (nameOf(a) < nameOf(b) ? 1 : -1))) {
      // One overlay has one outer family; IPv4 where a node has both (kvstore specification 9.2).
      const via = nodeIp(node, 4) ?? nodeIp(node, 6);
      if (via === undefined) continue;
      for (const prefix of [...node.ranges4, ...node.ranges6]) yield { prefix, via, owner: nameOf(node) };
    }
    for (const { prefix, via } of this.#ipcache.prefixes()) {
      if (via !== undefined) yield { prefix, via, owner: 'an address entry' };
    }
  }
}

function refusal(route: Route): string | undefined {
  const { prefix, via } = route;
  if (prefix.bits < MIN_BITS[prefix.family]) return `wider than /${MIN_BITS[prefix.family]}`;
  return isIn(prefix, via) ? `holds its own tunnel endpoint ${formatAddress(via)}` : undefined;
}

/** Ranges of one family and length. */
interface Level<R extends Route> {
  readonly family: 4 | 6;
  readonly bits: number;
  readonly by: Map<string, R>;
}

/** By length, longest first. */
function indexed<R extends Route>(ranges: Iterable<R>): Level<R>[] {
  const levels = new Map<string, Level<R>>();
  for (const route of ranges) {
    const { family, bits, words } = route.prefix;
    const level = levels.get(`${family} ${bits}`) ?? { family, bits, by: new Map<string, R>() };
    levels.set(`${family} ${bits}`, level);
    level.by.set(wordsText(words), route);
  }
  return [...levels.values()].sort((a, b) => b.bits - a.bits);
}

/** The ranges that hold an address, longest first. */
function holding<R extends Route>(index: readonly Level<R>[], address: Address): R[] {
  return index
    .filter(({ family }) => family === address.family)
    .map(({ bits, by }) => by.get(wordsText(prefixOf(address, bits).words)))
    .filter((route) => route !== undefined);
}

const wordsText = (words: Words): string => words.join(' ');
const nameOf = (node: Node): string => `${node.cluster}/${node.name}`;

function fingerprint(ranges: readonly Route[], guarded: ReadonlySet<string>): string {
  const routes = ranges.map(({ prefix, via }) => `${formatPrefix(prefix)} ${formatAddress(via)}`).sort();
  return [...routes, '', ...[...guarded].sort()].join('\n');
}
