import {
  attributes,
  type BpfCall,
  BpfError,
  bpf,
  COMMAND,
  closeObject,
  objectInfo,
  openPinned,
  pinObject,
  writeName,
} from './command.ts';

/** `enum bpf_map_type`. */
export const MAP_TYPE = { hash: 1, array: 2, lruHash: 9, lpmTrie: 11, ringBuffer: 27 } as const;

export interface MapShape {
  readonly name: string;
  readonly type: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  /** 0: as many as its owner needs. */
  readonly entries: number;
  readonly flags: number;
}

const BATCH = 4096;
const NO_EXIST = 1;

/** One eBPF map, open. Its owner closes it; what is pinned lives on. Every method throws BpfError. */
export class BpfMap {
  readonly fd: number;
  readonly shape: MapShape;
  /** What the kernel does not do at once is done one by one from then on. */
  #refused = new Set<number>();

  private constructor(fd: number, shape: MapShape) {
    this.fd = fd;
    this.shape = shape;
  }

  static create(shape: MapShape): BpfMap {
    const { name, type, keyBytes, valueBytes, entries, flags } = shape;
    const attr = attributes(72, { 0: type, 4: keyBytes, 8: valueBytes, 12: entries, 16: flags });
    writeName(attr, 28, name);
    return new BpfMap(bpf({ command: COMMAND.mapCreate, attr, operation: `make the eBPF map ${name}` }), shape);
  }

  /** @returns the map that is pinned there; undefined when there is none or it has another shape. */
  static open(path: string, wanted: MapShape): BpfMap | undefined {
    const fd = openPinned(path, 'map');
    if (fd === undefined) return undefined;
    const info = objectInfo(fd, 40);
    const [type, keyBytes, valueBytes, has, flags] = [0, 8, 12, 16, 20].map((at) => info.readUInt32LE(at));
    const entries = wanted.entries === 0 ? (has as number) : wanted.entries;
    const shape = { ...wanted, entries };
    if ([type, keyBytes, valueBytes, has, flags].join() === shapeText(shape)) return new BpfMap(fd, shape);
    closeObject(fd);
    return undefined;
  }

  pin(path: string): void {
    pinObject(this.fd, path);
  }

  get(key: Buffer): Buffer | undefined {
    const value = Buffer.alloc(this.shape.valueBytes);
    return this.#element(COMMAND.lookup, key, value) ? value : undefined;
  }

  put(key: Buffer, value: Buffer): void {
    this.#element(COMMAND.update, key, value);
  }

  /** @returns false, and changes nothing, when the key is there already */
  putNew(key: Buffer, value: Buffer): boolean {
    try {
      this.#element(COMMAND.update, key, value, NO_EXIST);
      return true;
    } catch (error) {
      if (error instanceof BpfError && error.errnoName === 'EEXIST') return false;
      throw error;
    }
  }

  /** @returns whether it was there */
  delete(key: Buffer): boolean {
    return this.#element(COMMAND.delete, key);
  }

  /** Keys and values lie one behind the other. Not in one step: it may fail in the midst. */
  putAll(keys: Buffer, values: Buffer): void {
    const { keyBytes, valueBytes } = this.shape;
    this.#each(keys, COMMAND.updateBatch, {
      values,
      one: (at) => this.put(slice(keys, at, keyBytes), slice(values, at, valueBytes)),
    });
  }

  /** Those that are not there do no harm. */
  deleteAll(keys: Buffer): void {
    this.#each(keys, COMMAND.deleteBatch, { one: (at) => this.delete(slice(keys, at, this.shape.keyBytes)) });
  }

  #each(keys: Buffer, command: number, by: { values?: Buffer; one: (index: number) => void }): void {
    const count = keys.length / this.shape.keyBytes;
    for (let done = 0; done < count; ) {
      const left = keys.subarray(done * this.shape.keyBytes);
      const values = by.values?.subarray(done * this.shape.valueBytes);
      done += count - done < 4 ? 0 : this.#many(command, left, values);
      // The one that it stopped at, and all of them where the kernel has no batches for this kind of map.
      if (done < count) by.one(done++);
    }
  }

  /** @returns how many were done */
  #many(command: number, keys: Buffer, values: Buffer | undefined): number {
    if (this.#refused.has(command)) return 0;
    const attr = attributes(56, { 32: keys.length / this.shape.keyBytes, 36: this.fd });
    const pointers = [16, keys, ...(values === undefined ? [] : [24, values])];
    try {
      bpf({ command, attr, pointers, operation: `change the eBPF map ${this.shape.name}` });
      return attr.readUInt32LE(32);
    } catch (error) {
      if (!(error instanceof BpfError)) throw error;
      // It says how far it came, unless it did not begin.
      const began = ['ENOENT', 'E2BIG', 'ENOSPC', 'ENOMEM'].includes(error.errnoName);
      if (!began) this.#refused.add(command);
      const done = attr.readUInt32LE(32);
      return began && done < keys.length / this.shape.keyBytes ? done : 0;
    }
  }

  /** Every element, in no order; elements that come or go meanwhile may be seen or not. The buffers are reused. */
  *entries(): Iterable<{ readonly key: Buffer; readonly value: Buffer }> {
    const { keyBytes, valueBytes } = this.shape;
    if (this.shape.type === MAP_TYPE.lpmTrie) {
      yield* this.#oneByOne();
      return;
    }
    const [keys, values] = [Buffer.alloc(BATCH * keyBytes), Buffer.alloc(BATCH * valueBytes)];
    for (let from: Buffer | undefined, last = false; !last; ) {
      const next = Buffer.alloc(Math.max(4, keyBytes));
      const attr = attributes(56, { 32: BATCH, 36: this.fd });
      const pointers = [8, next, 16, keys, 24, values, ...(from === undefined ? [] : [0, from])];
      last = !this.#found({ command: COMMAND.lookupBatch, attr, pointers }, 'read');
      const count = attr.readUInt32LE(32);
      for (let index = 0; index < count; index++) {
        yield {
          key: keys.subarray(index * keyBytes, (index + 1) * keyBytes),
          value: values.subarray(index * valueBytes, (index + 1) * valueBytes),
        };
      }
      from = next;
    }
  }

  /** Tries of longest prefixes are not read in batches: kernels before 6.13 may leave some out. */
  *#oneByOne(): Iterable<{ readonly key: Buffer; readonly value: Buffer }> {
    for (let key = this.#nextKey(undefined); key !== undefined; key = this.#nextKey(key)) {
      const value = this.get(key);
      if (value !== undefined) yield { key, value };
    }
  }

  #nextKey(key: Buffer | undefined): Buffer | undefined {
    const next = Buffer.alloc(this.shape.keyBytes);
    const pointers = key === undefined ? [16, next] : [8, key, 16, next];
    const attr = attributes(32, { 0: this.fd });
    return this.#found({ command: COMMAND.nextKey, attr, pointers }, 'read') ? next : undefined;
  }

  close(): void {
    closeObject(this.fd);
  }

  /** @returns false when the key is not there; an update needs none. */
  #element(command: number, key: Buffer, value?: Buffer, flags = 0): boolean {
    const attr = attributes(32, { 0: this.fd, 24: flags });
    const pointers = value === undefined ? [8, key] : [8, key, 16, value];
    return this.#found({ command, attr, pointers }, command === COMMAND.lookup ? 'read' : 'change');
  }

  /** @returns false when there is nothing, or nothing more */
  #found(call: Omit<BpfCall, 'operation'>, verb: 'read' | 'change'): boolean {
    try {
      bpf({ ...call, operation: `${verb} the eBPF map ${this.shape.name}` });
      return true;
    } catch (error) {
      if (call.command !== COMMAND.update && error instanceof BpfError && error.errnoName === 'ENOENT') return false;
      throw error;
    }
  }
}

function shapeText({ type, keyBytes, valueBytes, entries, flags }: MapShape): string {
  return [type, keyBytes, valueBytes, entries, flags].join();
}

function slice(all: Buffer, index: number, bytes: number): Buffer {
  return all.subarray(index * bytes, (index + 1) * bytes);
}
