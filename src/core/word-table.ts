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
/** Nobody outside can choose keys that all fall into one place: that would make every access a walk through all of them. */
const SEED = crypto.getRandomValues(new Uint32Array(1))[0] as number;

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
      const home = this.#hashAt(this.#rows, slot * this.#stride) & mask;
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

  /** One word of the key. */
  keyWord(slot: number, index: number): number {
    return this.#rows[slot * this.#stride + index] as number;
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
    let hash = SEED;
    for (let i = 0; i < this.keyWords; i++) hash = mix(hash, key[i] as number);
    return finish(hash);
  }

  #hashAt(rows: Uint32Array, base: number): number {
    let hash = SEED;
    for (let i = 0; i < this.keyWords; i++) hash = mix(hash, rows[base + i] as number);
    return finish(hash);
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
    // A million rows are moved here at once: no view and no comparison for each.
    const stride = this.#stride;
    const mask = slots - 1;
    const [toRows, toUsed] = [this.#rows, this.#used];
    for (let old = 0; old < used.length; old++) {
      if (used[old] !== 1) continue;
      const base = old * stride;
      let slot = this.#hashAt(rows, base) & mask;
      while (toUsed[slot] === 1) slot = (slot + 1) & mask;
      toUsed[slot] = 1;
      const to = slot * stride;
      for (let i = 0; i < stride; i++) toRows[to + i] = rows[base + i] as number;
      this.#count++;
    }
  }
}

function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

function finish(hash: number): number {
  const mixed = Math.imul(hash, 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
