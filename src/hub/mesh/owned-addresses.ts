import { contains, type Prefix, parsePrefix } from '../../core/ip.ts';
import type { PrefixIndex } from '../workloads/prefix-index.ts';

export interface OwnedAddressesOptions {
  /** Ranges and machines of the hub. */
  readonly own: Pick<PrefixIndex, 'overlapping'>;
  /** Orders clusters: the one that was connected earlier comes first. */
  readonly compare: (a: string, b: string) => number;
  /** Another cluster, or none, has this address first now. Canonical text. */
  readonly onChange: (address: string, owner: string | undefined) => void;
}

/** No cluster has more node addresses than that: what it claims beyond is refused. */
const MAX_ADDRESSES = 100_000;

/**
 * Whose node has which address. An entry of a cluster for an address of another one's node would take that node's traffic
 * (kvstore specification 4.10, 11.8 no. 17), so who is first keeps it: the hub, then the cluster that was connected
 * earlier, whatever the order in which they announce.
 */
export class OwnedAddresses {
  readonly #options: OwnedAddressesOptions;
  /** Claimants, the first one first. */
  readonly #claims = new Map<string, readonly string[]>();
  /** Addresses by cluster and node. */
  readonly #nodes = new Map<string, Map<string, readonly string[]>>();
  readonly #counts = new Map<string, number>();

  constructor(options: OwnedAddressesOptions) {
    this.#options = options;
  }

  /** Addresses of a node, in canonical text; none when it is gone. False: they are too many, and nothing has changed. */
  put(cluster: string, node: string, addresses: readonly string[]): boolean {
    const nodes = this.#nodes.get(cluster) ?? new Map<string, readonly string[]>();
    this.#nodes.set(cluster, nodes);
    const before = nodes.get(node) ?? [];
    const count = (this.#counts.get(cluster) ?? 0) + addresses.length - before.length;
    if (count > MAX_ADDRESSES && addresses.length > before.length) return false;
    this.#counts.set(cluster, count);
    if (addresses.length === 0) nodes.delete(node);
    else nodes.set(node, addresses);
    for (const address of addresses) if (!before.includes(address)) this.#claim(address, cluster);
    for (const address of before) if (!addresses.includes(address)) this.#withdraw(address, cluster);
    return true;
  }

  /** Everything of a cluster goes. */
  drop(cluster: string): void {
    for (const node of [...(this.#nodes.get(cluster)?.keys() ?? [])]) this.put(cluster, node, []);
    this.#nodes.delete(cluster);
    this.#counts.delete(cluster);
  }

  /** Nodes of other clusters than the owner that claim this address, too. */
  *rivals(address: string): Generator<{ readonly cluster: string; readonly node: string }> {
    const [owner, ...others] = this.#claims.get(address) ?? [];
    for (const cluster of new Set(others)) {
      if (cluster === owner) continue;
      for (const [node, addresses] of this.#nodes.get(cluster) ?? [])
        if (addresses.includes(address)) yield { cluster, node };
    }
  }

  /** Who has this address, if `cluster` has not: another cluster, or `hub`. `text` is a key of `ip/v1`. */
  foreignOwner(text: string, cluster: string): string | undefined {
    const slash = text.indexOf('/');
    const [first] = this.#claims.get(slash < 0 ? text : singleOf(text, slash)) ?? [];
    if (first !== undefined && first !== cluster && this.#options.compare(first, cluster) < 0) return first;
    const prefix = parsePrefix(text);
    return prefix !== undefined && this.ownsAll(prefix) ? 'hub' : undefined;
  }

  /** Whether a prefix lies within what is the hub's own. */
  ownsAll(prefix: Prefix): boolean {
    const held = this.#options.own.overlapping(prefix);
    return held !== undefined && contains(held.prefix, prefix);
  }

  #claim(address: string, cluster: string): void {
    const before = this.#claims.get(address) ?? [];
    // A node that moves from name to name claims twice for a moment.
    const after = [...before, cluster].sort(this.#options.compare);
    this.#claims.set(address, after);
    if (after[0] !== before[0]) this.#options.onChange(address, after[0]);
  }

  #withdraw(address: string, cluster: string): void {
    const before = this.#claims.get(address) ?? [];
    const after = [...before];
    const at = after.indexOf(cluster);
    if (at >= 0) after.splice(at, 1);
    if (after.length === 0) this.#claims.delete(address);
    else this.#claims.set(address, after);
    if (after[0] !== before[0]) this.#options.onChange(address, after[0]);
  }
}

/** `10.0.0.1/32` is 10.0.0.1, too. */
function singleOf(text: string, slash: number): string {
  const address = text.slice(0, slash);
  return text.slice(slash) === (address.includes(':') ? '/128' : '/32') ? address : text;
}
