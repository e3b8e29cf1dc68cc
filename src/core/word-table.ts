/**
 * A hash table from a key of one or four uint32 words (an IPv4 or IPv6 address) to a fixed row of uint32 columns, in typed
 * arrays: a million IPv4 rows of two columns take 25 to 50 MB less than a Map would, and nothing for the garbage collector
 * to walk. Open addressing with linear probing; deletion shifts back, so that no tombstones pile up. The rows are spread
 * over sixteen parts, each of which grows for itself: growing one of a million rows at once holds the event loop for 50 ms.
 *
 * A slot number is valid until the next insert or remove.
 */
export interface WordTableShape {
  readonly keyWords: 1 | 4;
  readonly columns: number;
}

const PART_BITS = 4;
const PARTS = 1 << PART_BITS;
const PART_MASK = PARTS - 1;
/** Per part. */
const MIN_SLOTS = 8;
const MAX_LOAD = 0.7;
/** Nobody outside can choose keys that all fall into one place: that would make every access a walk through all of them. */
const SEED = crypto.getRandomValues(new Uint32Array(1))[0] as number;

type Key = ArrayLike<number>;

export class WordTable {
  /** A key is always in the same part: a walk may be interrupted between two of them. */
  static readonly parts = PARTS;
  readonly keyWords: 1 | 4;
  readonly columns: number;
  readonly #parts: readonly Part[];

  constructor(shape: WordTableShape) {
    this.keyWords = shape.keyWords;
    this.columns = shape.columns;
    this.#parts = Array.from({ length: PARTS }, () => new Part(shape));
  }

  get size(): number {
    let size = 0;
    for (const part of this.#parts) size += part.count;
    return size;
  }

  /** The slot of a key, or -1. */
  find(key: Key): number {
    const hash = this.#hash(key);
    const slot = this.#part(hash).find(key, hash);
    return slot < 0 ? -1 : slotNumber(slot, hash);
  }

  /** The slot of a key, made with zeroed columns if it is new; `size` tells which. */
  insert(key: Key): number {
    const hash = this.#hash(key);
    return slotNumber(this.#part(hash).insert(key, hash), hash);
  }

  remove(key: Key): boolean {
    const hash = this.#hash(key);
    const part = this.#part(hash);
    const slot = part.find(key, hash);
    if (slot < 0) return false;
    part.removeAt(slot);
    return true;
  }

  /** Removes the row of a slot that was found. */
  removeAt(slot: number): void {
    this.#part(slot).removeAt(slot >>> PART_BITS);
  }

  get(slot: number, column: number): number {
    return this.#part(slot).word(slot >>> PART_BITS, this.keyWords + column);
  }

  set(slot: number, column: number, value: number): void {
    this.#part(slot).setWord(slot >>> PART_BITS, this.keyWords + column, value);
  }

  /** One word of the key. */
  keyWord(slot: number, index: number): number {
    return this.#part(slot).word(slot >>> PART_BITS, index);
  }

  /** A view of the key; copy it if it must outlive the next change. */
  keyAt(slot: number): Uint32Array {
    return this.#part(slot).keyAt(slot >>> PART_BITS);
  }

  /** The value of a column by key, or undefined. */
  lookup(key: Key, column: number): number | undefined {
    const slot = this.find(key);
    return slot < 0 ? undefined : this.get(slot, column);
  }

  /** Visits every slot in use, or those of one part. The table must not be changed meanwhile, except by `set`. */
  forEach(visit: (slot: number) => void, part?: number): void {
    for (const [index, each] of this.#parts.entries())
      if (part === undefined || part === index) each.forEach((slot) => void visit(slotNumber(slot, index)));
  }

  /** A copy of all keys, one behind the other, in no promised order: to iterate while the table changes. */
  keys(): Uint32Array {
    const keys = new Uint32Array(this.size * this.keyWords);
    let at = 0;
    for (const part of this.#parts) at = part.copyKeys(keys, at);
    return keys;
  }

  clear(): void {
    for (const part of this.#parts) part.clear();
  }

  /** The low bits of a hash choose the part, and so do those of a slot number. */
  #part(hash: number): Part {
    return this.#parts[hash & PART_MASK] as Part;
  }

  #hash(key: Key): number {
    let hash = SEED;
    for (let i = 0; i < this.keyWords; i++) hash = mix(hash, key[i] as number);
    return finish(hash);
  }
}

function slotNumber(slot: number, hash: number): number {
  return slot * PARTS + (hash & PART_MASK);
}

/** A table of its own for the keys whose hashes end alike. */
class Part {
  readonly #keyWords: number;
  readonly #stride: number;
  count = 0;
  #mask = MIN_SLOTS - 1;
  #rows: Uint32Array;
  #used: Uint8Array;

  constructor(shape: WordTableShape) {
    this.#keyWords = shape.keyWords;
    this.#stride = shape.keyWords + shape.columns;
    this.#rows = new Uint32Array(MIN_SLOTS * this.#stride);
    this.#used = new Uint8Array(MIN_SLOTS);
  }

  find(key: Key, hash: number): number {
    const mask = this.#mask;
    for (let slot = (hash >>> PART_BITS) & mask; this.#used[slot] === 1; slot = (slot + 1) & mask)
      if (this.#equals(slot, key)) return slot;
    return -1;
  }

  insert(key: Key, hash: number): number {
    if (this.count + 1 > (this.#mask + 1) * MAX_LOAD) this.#resize((this.#mask + 1) * 2);
    const mask = this.#mask;
    let slot = (hash >>> PART_BITS) & mask;
    for (; this.#used[slot] === 1; slot = (slot + 1) & mask) if (this.#equals(slot, key)) return slot;
    this.#used[slot] = 1;
    const base = slot * this.#stride;
    for (let i = 0; i < this.#keyWords; i++) this.#rows[base + i] = key[i] as number;
    this.#rows.fill(0, base + this.#keyWords, base + this.#stride);
    this.count++;
    return slot;
  }

  removeAt(removed: number): void {
    const mask = this.#mask;
    let hole = removed;
    for (let slot = (hole + 1) & mask; this.#used[slot] === 1; slot = (slot + 1) & mask) {
      const home = this.#homeAt(this.#rows, slot * this.#stride);
      // May the row at `slot` move back to the hole: only if its home is not cyclically inside (hole, slot].
      if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
      this.#rows.copyWithin(hole * this.#stride, slot * this.#stride, (slot + 1) * this.#stride);
      hole = slot;
    }
    this.#used[hole] = 0;
    this.count--;
    if (mask >= MIN_SLOTS && this.count < (mask + 1) * 0.15) this.#resize((mask + 1) / 2);
  }

  word(slot: number, index: number): number {
    return this.#rows[slot * this.#stride + index] as number;
  }

  setWord(slot: number, index: number, value: number): void {
    this.#rows[slot * this.#stride + index] = value;
  }

  keyAt(slot: number): Uint32Array {
    const base = slot * this.#stride;
    return this.#rows.subarray(base, base + this.#keyWords);
  }

  forEach(visit: (slot: number) => void): void {
    for (let slot = 0; slot <= this.#mask; slot++) if (this.#used[slot] === 1) visit(slot);
  }

  /** @returns where the next part goes on */
  copyKeys(keys: Uint32Array, from: number): number {
    let at = from;
    for (let slot = 0; slot <= this.#mask; slot++) {
      if (this.#used[slot] !== 1) continue;
      const base = slot * this.#stride;
      for (let i = 0; i < this.#keyWords; i++) keys[at++] = this.#rows[base + i] as number;
    }
    return at;
  }

  clear(): void {
    this.#mask = MIN_SLOTS - 1;
    this.count = 0;
    this.#rows = new Uint32Array(MIN_SLOTS * this.#stride);
    this.#used = new Uint8Array(MIN_SLOTS);
  }

  #homeAt(rows: Uint32Array, base: number): number {
    let hash = SEED;
    for (let i = 0; i < this.#keyWords; i++) hash = mix(hash, rows[base + i] as number);
    return (finish(hash) >>> PART_BITS) & this.#mask;
  }

  #equals(slot: number, key: Key): boolean {
    const base = slot * this.#stride;
    for (let i = 0; i < this.#keyWords; i++) if (this.#rows[base + i] !== key[i]) return false;
    return true;
  }

  #resize(slots: number): void {
    const [rows, used, stride] = [this.#rows, this.#used, this.#stride];
    const toRows = new Uint32Array(slots * stride);
    const toUsed = new Uint8Array(slots);
    const mask = slots - 1;
    this.#mask = mask;
    this.#rows = toRows;
    this.#used = toUsed;
    for (let old = 0; old < used.length; old++) {
      if (used[old] !== 1) continue;
      const base = old * stride;
      let slot = this.#homeAt(rows, base);
      while (toUsed[slot] === 1) slot = (slot + 1) & mask;
      toUsed[slot] = 1;
      const to = slot * stride;
      for (let i = 0; i < stride; i++) toRows[to + i] = rows[base + i] as number;
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
