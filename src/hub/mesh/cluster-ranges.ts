import { formatPrefix, type Prefix } from '../../core/ip.ts';
import { findOverlaps, type OwnedRange, type RangeOverlap } from './range-overlaps.ts';

/** No cluster has more node ranges than that; what it announces beyond is not compared. */
const MAX_RANGES = 20_000;
const MAX_FOUND = 100;

/** The ranges that nodes of the connected clusters announce, compared with each other and with the hub's own. */
export class ClusterRanges {
  readonly #clusters = new Map<string, Map<string, readonly Prefix[]>>();
  #dirty = false;
  #found: readonly RangeOverlap[] = [];

  put(cluster: string, node: string, ranges: readonly Prefix[]): void {
    const nodes = this.#clusters.get(cluster) ?? new Map<string, readonly Prefix[]>();
    this.#clusters.set(cluster, nodes);
    this.#dirty = true;
    if (ranges.length === 0) nodes.delete(node);
    else if (nodes.size < MAX_RANGES) nodes.set(node, ranges);
  }

  drop(cluster: string): void {
    this.#clusters.delete(cluster);
    this.#dirty = true;
  }

  /** The hub's ranges have changed. */
  touch(): void {
    this.#dirty = true;
  }

  overlaps(own: Iterable<{ readonly prefix: Prefix; readonly what: string }>): readonly RangeOverlap[] {
    if (this.#dirty) this.#found = findOverlaps([...this.#all(own)], MAX_FOUND);
    this.#dirty = false;
    return this.#found;
  }

  *#all(own: Iterable<{ readonly prefix: Prefix; readonly what: string }>): Generator<OwnedRange> {
    for (const { prefix, what } of own) yield { prefix, owner: '', what };
    for (const [cluster, nodes] of this.#clusters)
      for (const [node, ranges] of nodes)
        for (const prefix of ranges)
          yield { prefix, owner: cluster, what: `range ${formatPrefix(prefix)} of node ${node} in cluster ${cluster}` };
  }
}
