import {
  type Address,
  addressBits,
  type Family,
  formatAddress,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../core/ip.ts';
import { decodeNodeValue, type Node } from '../../kvstore/codec/node.ts';
import type { PrefixWatch, Store } from '../../kvstore/store.ts';
import { PrefixIndex, wholeAddress } from './prefix-index.ts';

const NODES = 'cilium/cache/nodes/v1/';
const ADDRESSES = 'cilium/cache/ip/v1/';
const CHANGE_MS = 1000;
/** Ranges of so many addresses are looked up one by one, larger ones by looking at every address that is known. */
const FEW = 1024;

/** What is in use, and by whom, in words. */
export interface Occupied {
  readonly prefix: Prefix;
  readonly owner: string;
}

/**
 * Addresses and ranges of the connected clusters, as their cache in our store has them: a workload that took one would
 * shadow a node, a router or a pod of another cluster there (specification 4.10; 11.8 no. 16 and 17).
 */
export class ForeignAddresses {
  readonly #onChange = new Set<() => void>();
  readonly #watches: readonly PrefixWatch[];
  /** By cluster. IPv4 as its word: there may be hundreds of thousands. */
  readonly #plain = new Map<string, Map<number | string, number>>();
  /** Prefixes of `ip/v1`, by their key. */
  readonly #prefixes = new Map<string, { readonly prefix: Prefix; readonly owner: string; generation: number }>();
  readonly #nodes = new Map<string, NodeFacts>();
  readonly #index = new PrefixIndex();
  #generation = 0;
  #nodeGeneration = 0;
  #listed = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #ready: Promise<void>;
  #isReady: () => void = () => {};

  constructor(store: Pick<Store, 'watchPrefix'>) {
    this.#ready = new Promise((resolve) => {
      this.#isReady = resolve;
    });
    this.#watches = [
      store.watchPrefix(ADDRESSES, {
        listing: () => {
          this.#generation++;
        },
        put: (key) => this.#putAddress(key),
        remove: (key) => this.#removeAddress(key),
        listed: () => this.#sweepAddresses(),
      }),
      store.watchPrefix(NODES, {
        listing: () => {
          this.#nodeGeneration++;
        },
        put: (key, value) => this.#putNode(key, value),
        remove: (key) => this.#removeNode(key),
        listed: () => this.#sweepNodes(),
      }),
    ];
  }

  get size(): number {
    let size = this.#index.size;
    for (const cluster of this.#plain.values()) size += cluster.size;
    return size;
  }

  /** Both lists are complete. */
  ready(): Promise<void> {
    return this.#ready;
  }

  /** Called within a second of a change. */
  onChange(listener: () => void): () => void {
    this.#onChange.add(listener);
    return () => this.#onChange.delete(listener);
  }

  /** Who has this address already, in words: `pod range 10.1.0.0/16 of node-1 in cluster-b`. */
  ownerOf(address: Address): string | undefined {
    const key = compact(address);
    for (const [cluster, addresses] of this.#plain) if (addresses.has(key)) return `a pod of cluster ${cluster} has it`;
    const held = this.#index.overlapping(wholeAddress(address));
    return held === undefined ? undefined : held.owner;
  }

  /** Who has an address in this range already, and what. Single pod addresses count when nothing larger does. */
  overlapping(prefix: Prefix): Occupied | undefined {
    const held = this.#index.overlapping(prefix);
    if (held !== undefined) return held;
    const few = addressesOf(prefix, FEW);
    for (const [cluster, addresses] of this.#plain) {
      const keys = few ?? addresses.keys();
      for (const key of keys)
        if (few === undefined ? isWithin(key, prefix) : addresses.has(key))
          return { prefix: prefixOfKey(key), owner: `a pod of cluster ${cluster} has an address in it` };
    }
    return undefined;
  }

  close(): void {
    clearTimeout(this.#timer);
    for (const watch of this.#watches) watch.close();
  }

  #putAddress(key: string): void {
    const { cluster, rest } = split(key);
    if (rest.includes('/')) {
      const prefix = parsePrefix(rest);
      if (prefix === undefined || !isPlausible(prefix)) return;
      const owner = `cluster ${cluster} has ${rest}`;
      if (!this.#prefixes.has(key)) this.#index.add(prefix, owner);
      this.#prefixes.set(key, { prefix, owner, generation: this.#generation });
    } else {
      const address = parseAddress(rest);
      if (address === undefined) return;
      const addresses = this.#plain.get(cluster) ?? new Map<number | string, number>();
      this.#plain.set(cluster, addresses);
      const fresh = !addresses.has(compact(address));
      addresses.set(compact(address), this.#generation);
      if (!fresh) return;
    }
    this.#changed();
  }

  #removeAddress(key: string): void {
    const { cluster, rest } = split(key);
    const held = this.#prefixes.get(key);
    if (held !== undefined) {
      this.#index.remove(held.prefix, held.owner);
      this.#prefixes.delete(key);
    }
    const address = parseAddress(rest);
    const addresses = this.#plain.get(cluster);
    if (address !== undefined && addresses?.delete(compact(address)) && addresses.size === 0)
      this.#plain.delete(cluster);
    this.#changed();
  }

  #sweepAddresses(): void {
    for (const [cluster, addresses] of this.#plain) {
      for (const [key, generation] of addresses) if (generation !== this.#generation) addresses.delete(key);
      if (addresses.size === 0) this.#plain.delete(cluster);
    }
    for (const [key, { generation }] of this.#prefixes) if (generation !== this.#generation) this.#removeAddress(key);
    this.#complete(1);
  }

  #putNode(key: string, value: Buffer): void {
    this.#removeNode(key);
    try {
      const claims = claimsOf(decodeNodeValue(value), split(key));
      for (const { prefix, owner } of claims) this.#index.add(prefix, owner);
      this.#nodes.set(key, { claims, generation: this.#nodeGeneration });
    } catch {
      // Whoever follows that cluster tells of it.
    }
    this.#changed();
  }

  #removeNode(key: string): void {
    for (const { prefix, owner } of this.#nodes.get(key)?.claims ?? []) this.#index.remove(prefix, owner);
    this.#nodes.delete(key);
    this.#changed();
  }

  #sweepNodes(): void {
    for (const [key, { generation }] of this.#nodes) if (generation !== this.#nodeGeneration) this.#removeNode(key);
    this.#complete(2);
  }

  #complete(which: 1 | 2): void {
    this.#listed |= which;
    if (this.#listed === 3) this.#isReady();
    this.#changed();
  }

  #changed(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      for (const listener of this.#onChange) listener();
    }, CHANGE_MS).unref();
  }
}

/** Nobody has all addresses: a cluster that says so would keep every machine out. */
const SHORTEST: Readonly<Record<Family, number>> = { 4: 8, 6: 16 };

function isPlausible({ family, bits }: Prefix): boolean {
  return bits >= SHORTEST[family];
}

interface NodeFacts {
  readonly claims: readonly { readonly prefix: Prefix; readonly owner: string }[];
  readonly generation: number;
}

function claimsOf(node: Node, { cluster, rest: name }: { cluster: string; rest: string }): NodeFacts['claims'] {
  const of = `${name} in cluster ${cluster}`;
  const single = (addresses: readonly Address[], what: string) =>
    addresses.map((address) => ({
      prefix: wholeAddress(address),
      owner: `${what} ${formatAddress(address)} of ${of}`,
    }));
  const own = node.addresses.filter(({ type }) => type !== 'CiliumInternalIP').map(({ address }) => address);
  const router = node.addresses.filter(({ type }) => type === 'CiliumInternalIP').map(({ address }) => address);
  return [
    ...single(own, 'node address'),
    ...single(router, 'router address'),
    ...single(node.healthAddresses, 'health address'),
    ...single(node.ingressAddresses, 'ingress address'),
    ...[...node.ranges4, ...node.ranges6].filter(isPlausible).map((prefix) => ({
      prefix,
      owner: `pod range ${formatAddress(prefix)}/${prefix.bits} of ${of}`,
    })),
  ];
}

function split(key: string): { readonly cluster: string; readonly rest: string } {
  const slash = key.indexOf('/');
  return { cluster: key.slice(0, slash), rest: key.slice(slash + 1) };
}

/** All addresses of a prefix, unless they are too many. */
function addressesOf(prefix: Prefix, most: number): (number | string)[] | undefined {
  const free = addressBits(prefix.family) - prefix.bits;
  if (2 ** free > most) return undefined;
  return Array.from({ length: 2 ** free }, (_, offset) => {
    const words = [...prefix.words];
    words[words.length - 1] = (words.at(-1) ?? 0) + offset;
    return compact({ family: prefix.family, words });
  });
}

function compact(address: Address): number | string {
  return address.family === 4 ? (address.words[0] ?? 0) : formatAddress(address);
}

function prefixOfKey(key: number | string): Prefix {
  const address: Address = typeof key === 'number' ? { family: 4, words: [key] } : (parseAddress(key) as Address);
  return wholeAddress(address);
}

function isWithin(key: number | string, prefix: Prefix): boolean {
  if (typeof key === 'number') {
    const shift = 32 - prefix.bits;
    return prefix.family === 4 && (shift === 32 || (key ^ (prefix.words[0] ?? 0)) >>> shift === 0);
  }
  if (prefix.family === 4) return false;
  const address = parseAddress(key);
  return (
    address?.words.every((word, index) => {
      const keep = Math.min(32, Math.max(0, prefix.bits - index * 32));
      return keep === 0 || (word ^ (prefix.words[index] ?? 0)) >>> (32 - keep) === 0;
    }) === true
  );
}
