import { Feed } from '../core/feed.ts';
import { isOlder } from './generation.ts';
import type { Origin } from './origin.ts';
import { exhaust } from './slices.ts';

interface Fact<V> {
  readonly value: V;
  readonly origin: number;
  generation: number;
}

/**
 * Present facts by key (nodes, identities, services), each of one origin. Keys of two origins do not meet: identities lie in
 * disjoint blocks (`ClusterIds`), the other keys carry the cluster's name.
 */
export class FactTable<K, V> {
  readonly changed = new Feed<K>();
  readonly #facts = new Map<K, Fact<V>>();
  readonly #counts = new Map<number, number>();
  readonly #same: (a: V, b: V) => boolean;

  /** Values that `same` calls equal are no change: a list that repeats what we know wakes nobody. */
  constructor(same: (a: V, b: V) => boolean = () => false) {
    this.#same = same;
  }

  get size(): number {
    return this.#facts.size;
  }

  get(key: K): V | undefined {
    return this.#facts.get(key)?.value;
  }

  *values(): Iterable<V> {
    for (const { value } of this.#facts.values()) yield value;
  }

  *entries(): Iterable<readonly [K, V]> {
    for (const [key, { value }] of this.#facts) yield [key, value];
  }

  countOf(origin: Origin): number {
    return this.#counts.get(origin.index) ?? 0;
  }

  put(origin: Origin, generation: number, key: K, value: V): void {
    const before = this.#facts.get(key);
    if (before !== undefined) this.#count(before.origin, -1);
    this.#facts.set(key, { value, origin: origin.index, generation });
    this.#count(origin.index, 1);
    if (before === undefined || !this.#same(before.value, value)) this.changed.mark(key);
  }

  /** Says that the fact, whatever it is, was listed again. False if there is none. */
  keep(origin: Origin, generation: number, key: K): boolean {
    const fact = this.#facts.get(key);
    if (fact === undefined || fact.origin !== origin.index) return false;
    fact.generation = generation;
    return true;
  }

  remove(origin: Origin, key: K): void {
    if (this.#facts.get(key)?.origin !== origin.index) return;
    this.#facts.delete(key);
    this.#count(origin.index, -1);
    this.changed.mark(key);
  }

  /** Removes what an origin did not list again in this generation; everything of it without one. */
  sweep(origin: Origin, generation?: number): void {
    exhaust(this.sweeping(origin, generation));
  }

  /** The same step by step: what is listed again between two steps stays. `onGone` hears what was removed. */
  *sweeping(origin: Origin, generation?: number, onGone: (key: K, value: V) => void = () => {}): Generator<void> {
    if (this.countOf(origin) === 0) return;
    let step = 0;
    for (const [key, fact] of this.#facts) {
      if (fact.origin === origin.index && (generation === undefined || isOlder(fact.generation, generation))) {
        this.remove(origin, key);
        onGone(key, fact.value);
      }
      if (++step % 64 === 0) yield;
    }
  }

  #count(origin: number, by: number): void {
    this.#counts.set(origin, (this.#counts.get(origin) ?? 0) + by);
  }
}
