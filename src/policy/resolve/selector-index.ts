import { formatPrefix, type Prefix, prefixOf } from '../../core/ip.ts';
import type { LabelSet } from '../../core/labels.ts';
import type { Requirement, Selector } from '../rule.ts';
import { cidrLabelOf, matches, prefixOfKey } from './match.ts';

/**
 * Finds the selectors that match a set of labels without trying them all. Each selector hangs on one anchor, a
 * requirement that a label must fulfil: `key=value`, a key, or a prefix. Those without one are always tried.
 */
interface Hung<T> {
  readonly selector: Selector;
  readonly owner: T;
  readonly anchors: readonly string[];
}

export class SelectorIndex<T> {
  readonly #byAnchor = new Map<string, Set<Hung<T>>>();
  readonly #always = new Set<Hung<T>>();
  readonly #byOwner = new Map<T, readonly Hung<T>[]>();
  /** How many anchors there are per prefix length: lengths that nobody uses need no look-up. */
  readonly #lengths = { 4: new Map<number, number>(), 6: new Map<number, number>() };

  add(owner: T, selectors: readonly Selector[]): void {
    const hung = selectors.map((selector) => ({ selector, owner, anchors: this.#anchorsOf(selector) }));
    this.#byOwner.set(owner, hung);
    for (const each of hung) {
      if (each.anchors.length === 0) this.#always.add(each);
      for (const anchor of each.anchors) {
        const bucket = this.#byAnchor.get(anchor) ?? new Set();
        this.#byAnchor.set(anchor, bucket.add(each));
        this.#countLength(anchor, 1);
      }
    }
  }

  remove(owner: T): void {
    for (const each of this.#byOwner.get(owner) ?? []) {
      this.#always.delete(each);
      for (const anchor of each.anchors) {
        const bucket = this.#byAnchor.get(anchor);
        bucket?.delete(each);
        if (bucket?.size === 0) this.#byAnchor.delete(anchor);
        this.#countLength(anchor, -1);
      }
    }
    this.#byOwner.delete(owner);
  }

  /** Adds the owners of all selectors that match. */
  collect(labels: LabelSet, into: Set<T>): void {
    for (const label of labels) {
      if (label.source === 'cidr') continue;
      this.#try(this.#byAnchor.get(`=${label.key}=${label.value}`), labels, into);
      this.#try(this.#byAnchor.get(`?${label.key}`), labels, into);
    }
    if (this.#lengths[4].size + this.#lengths[6].size > 0) this.#collectPrefix(cidrLabelOf(labels), labels, into);
    this.#try(this.#always, labels, into);
  }

  #collectPrefix(prefix: Prefix | undefined, labels: LabelSet, into: Set<T>): void {
    if (prefix === undefined) return;
    for (const bits of this.#lengths[prefix.family].keys()) {
      if (bits > prefix.bits) continue;
      this.#try(this.#byAnchor.get(`/${formatPrefix(prefixOf(prefix, bits))}`), labels, into);
    }
  }

  #try(candidates: ReadonlySet<Hung<T>> | undefined, labels: LabelSet, into: Set<T>): void {
    if (candidates === undefined) return;
    for (const each of candidates) if (!into.has(each.owner) && matches(each.selector, labels)) into.add(each.owner);
  }

  /** The requirement with the fewest others on it: namespace and cluster labels, which everyone has, lose. */
  #anchorsOf(selector: Selector): readonly string[] {
    let best: readonly string[] = [];
    let fewest = Number.POSITIVE_INFINITY;
    for (const each of selector) {
      const anchors = anchorsOf(each);
      if (anchors === undefined) continue;
      let load = each.operator === 'Exists' ? 1 : 0;
      for (const anchor of anchors) load += (this.#byAnchor.get(anchor)?.size ?? 0) + 1;
      if (load < fewest) {
        best = anchors;
        fewest = load;
      }
    }
    return best;
  }

  #countLength(anchor: string, by: number): void {
    if (!anchor.startsWith('/')) return;
    const lengths = this.#lengths[anchor.includes(':') ? 6 : 4];
    const bits = Number(anchor.slice(anchor.lastIndexOf('/') + 1));
    const count = (lengths.get(bits) ?? 0) + by;
    if (count > 0) lengths.set(bits, count);
    else lengths.delete(bits);
  }
}

/** Where labels that fulfil a requirement are found; undefined when absence may fulfil it. */
function anchorsOf({ source, key, operator, values }: Requirement): readonly string[] | undefined {
  if (operator === 'NotIn' || operator === 'DoesNotExist') return undefined;
  if (source === 'cidr') {
    const prefix: Prefix | undefined = prefixOfKey(key);
    return prefix === undefined ? undefined : [`/${formatPrefix(prefix)}`];
  }
  return operator === 'Exists' ? [`?${key}`] : values.map((value) => `=${key}=${value}`);
}
