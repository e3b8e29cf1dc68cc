/**
 * A hash table from a key of one or four uint32 words (an IPv4 or IPv6 address) to a fixed row of uint32 columns, in
 * one typed array: a million IPv4 rows of two columns take 25 to 50 MB less than a Map would, and nothing for the
 * garbage collector to walk. Open addressing with linear probing; deletion shifts back, so that no tombstones pile up.
 *
 * A slot number is valid until the next insert or remove.
 */
export interface WordTableShape {
  readonly keyWords: 1 | 4;
  readonly columns: number;
}

const MIN_SLOTS = 64;
const MAX_LOAD = 0.7;

export class WordTable {
  readonly keyWords: 1 | 4;
  readonly columns: number;
  #stride: number;
  #slots = MIN_SLOTS;
  #count = 0;
  #rows: Uint32Array;
  #used: Uint8Array;

  constructor(shape: WordTableShape) {
    this.keyWords = shape.keyWords;
    this.columns = shape.columns;
    this.#stride = shape.keyWords + shape.columns;
    this.#rows = new Uint32Array(MIN_SLOTS * this.#stride);
    this.#used = new Uint8Array(MIN_SLOTS);
  }

  get size(): number {
    return this.#count;
  }

  /** The slot of a key, or -1. */
  find(key: ArrayLike<number>): number {
    const mask = this.#slots - 1;
    for (let slot = this.#hash(key) & mask; this.#used[slot] === 1; slot = (slot + 1) & mask) {
      if (this.#equals(slot, key)) return slot;
    }
    return -1;
  }

  /** The slot of a key, made with zeroed columns if it is new; `size` tells which. */
  insert(key: ArrayLike<number>): number {
    if (this.#count + 1 > this.#slots * MAX_LOAD) this.#resize(this.#slots * 2);
    const mask = this.#slots - 1;
    let slot = this.#hash(key) & mask;
    for (; this.#used[slot] === 1; slot = (slot + 1) & mask) if (this.#equals(slot, key)) return slot;
    this.#used[slot] = 1;
    const base = slot * this.#stride;
    for (let i = 0; i < this.keyWords; i++) this.#rows[base + i] = key[i] as number;
    this.#rows.fill(0, base + this.keyWords, base + this.#stride);
    this.#count++;
    return slot;
  }

  remove(key: ArrayLike<number>): boolean {
    let hole = this.find(key);
    if (hole < 0) return false;
    const mask = this.#slots - 1;
    for (let slot = (hole + 1) & mask; this.#used[slot] === 1; slot = (slot + 1) & mask) {
      const home = this.#hash(this.keyAt(slot)) & mask;
      // May the row at `slot` move back to the hole: only if its home is not cyclically inside (hole, slot].
      if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
      this.#rows.copyWithin(hole * this.#stride, slot * this.#stride, (slot + 1) * this.#stride);
      hole = slot;
    }
    this.#used[hole] = 0;
    this.#count--;
    if (this.#slots > MIN_SLOTS && this.#count < this.#slots * 0.15) this.#resize(this.#slots / 2);
    return true;
  }

  get(slot: number, column: number): number {
    return this.#rows[slot * this.#stride + this.keyWords + column] as number;
  }

  set(slot: number, column: number, value: number): void {
    this.#rows[slot * this.#stride + this.keyWords + column] = value;
  }

  /** A view of the key; copy it if it must outlive the next change. */
  keyAt(slot: number): Uint32Array {
    const base = slot * this.#stride;
    return this.#rows.subarray(base, base + this.keyWords);
  }

  /** The value of a column by key, or undefined. */
  lookup(key: ArrayLike<number>, column: number): number | undefined {
    const slot = this.find(key);
    return slot < 0 ? undefined : this.get(slot, column);
  }

  /** Visits every slot in use. The table must not be changed meanwhile, except by `set`. */
  forEach(visit: (slot: number) => void): void {
    for (let slot = 0; slot < this.#slots; slot++) if (this.#used[slot] === 1) visit(slot);
  }

  /** A copy of all keys, one behind the other, in no promised order: to iterate while the table changes. */
  keys(): Uint32Array {
    const keys = new Uint32Array(this.#count * this.keyWords);
    let at = 0;
    for (let slot = 0; slot < this.#slots; slot++) {
      if (this.#used[slot] !== 1) continue;
      const base = slot * this.#stride;
      for (let i = 0; i < this.keyWords; i++) keys[at++] = this.#rows[base + i] as number;
    }
    return keys;
  }

  clear(): void {
    this.#slots = MIN_SLOTS;
    this.#count = 0;
    this.#rows = new Uint32Array(MIN_SLOTS * this.#stride);
    this.#used = new Uint8Array(MIN_SLOTS);
  }

  #hash(key: ArrayLike<number>): number {
    let hash = 0x9e3779b9;
    for (let i = 0; i < this.keyWords; i++) {
      hash = Math.imul(hash ^ (key[i] as number), 0x85ebca6b);
      hash ^= hash >>> 15;
    }
    hash = Math.imul(hash, 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0;
  }

  #equals(slot: number, key: ArrayLike<number>): boolean {
    const base = slot * this.#stride;
    for (let i = 0; i < this.keyWords; i++) if (this.#rows[base + i] !== key[i]) return false;
    return true;
  }

  #resize(slots: number): void {
    const rows = this.#rows;
    const used = this.#used;
    this.#slots = slots;
    this.#count = 0;
    this.#rows = new Uint32Array(slots * this.#stride);
    this.#used = new Uint8Array(slots);
    for (let old = 0; old < used.length; old++) {
      if (used[old] !== 1) continue;
      const base = old * this.#stride;
      const slot = this.insert(rows.subarray(base, base + this.keyWords));
      this.#rows.set(rows.subarray(base, base + this.#stride), slot * this.#stride);
    }
  }
}
