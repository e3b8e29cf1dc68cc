import {
  attributes,
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
export const MAP_TYPE = { hash: 1, array: 2, lpmTrie: 11, lruHash: 9, ringBuffer: 27 } as const;

export interface MapShape {
  readonly name: string;
  readonly type: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly entries: number;
  readonly flags: number;
}

const BATCH = 4096;
const NO_EXIST = 1;

/** One eBPF map, open. Its owner closes it; what is pinned lives on. Every method throws BpfError. */
export class BpfMap {
  readonly fd: number;
  readonly shape: MapShape;

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
    const fd = openPinned(path);
    if (fd === undefined) return undefined;
    const map = new BpfMap(fd, wanted);
    if (map.#fits()) return map;
    map.close();
    return undefined;
  }

  #fits(): boolean {
    const info = objectInfo(this.fd, 40);
    const has = [0, 8, 12, 16, 20].map((offset) => info.readUInt32LE(offset));
    const { type, keyBytes, valueBytes, entries, flags } = this.shape;
    return has.join() === [type, keyBytes, valueBytes, entries, flags].join();
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

  /** Every element, in no order; elements that come or go meanwhile may be seen or not. The buffers are reused. */
  *entries(): Iterable<{ readonly key: Buffer; readonly value: Buffer }> {
    const { keyBytes, valueBytes } = this.shape;
    const [keys, values] = [Buffer.alloc(BATCH * keyBytes), Buffer.alloc(BATCH * valueBytes)];
    for (let from: Buffer | undefined, last = false; !last; ) {
      const next = Buffer.alloc(Math.max(4, keyBytes));
      const attr = attributes(56, { 32: BATCH, 36: this.fd });
      const pointers = [8, next, 16, keys, 24, values, ...(from === undefined ? [] : [0, from])];
      last = this.#batch({ command: COMMAND.lookupBatch, attr, pointers });
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

  close(): void {
    closeObject(this.fd);
  }

  /** @returns whether the end was reached */
  #batch(call: { command: number; attr: Buffer; pointers: (number | Buffer)[] }): boolean {
    try {
      bpf({ ...call, operation: `read the eBPF map ${this.shape.name}` });
      return false;
    } catch (error) {
      if (error instanceof BpfError && error.errnoName === 'ENOENT') return true;
      throw error;
    }
  }

  #element(command: number, key: Buffer, value?: Buffer, flags = 0): boolean {
    try {
      bpf({
        command,
        attr: attributes(32, { 0: this.fd, 24: flags }),
        pointers: value === undefined ? [8, key] : [8, key, 16, value],
        operation: `${command === COMMAND.lookup ? 'read' : 'change'} the eBPF map ${this.shape.name}`,
      });
      return true;
    } catch (error) {
      if (command !== COMMAND.update && error instanceof BpfError && error.errnoName === 'ENOENT') return false;
      throw error;
    }
  }
}
