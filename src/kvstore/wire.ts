/**
 * The protocol buffer wire format (proto3), as much as etcd's messages need: varints, length-delimited fields. Numbers
 * are revisions, limits and counts and fit in 53 bits; 64-bit ids are read as bigint.
 */
export class WireWriter {
  #parts: Buffer[] = [];

  uint(field: number, value: number | bigint): this {
    if (value === 0 || value === 0n) return this;
    this.#parts.push(varint(field << 3), varint(value));
    return this;
  }

  bool(field: number, value: boolean): this {
    return value ? this.uint(field, 1) : this;
  }

  bytes(field: number, value: string | Uint8Array): this {
    const data =
      typeof value === 'string' ? Buffer.from(value) : Buffer.from(value.buffer, value.byteOffset, value.length);
    if (data.length > 0) this.#parts.push(varint((field << 3) | 2), varint(data.length), data);
    return this;
  }

  /** A sub-message; written even when it is empty, since presence has a meaning. */
  message(field: number, value: WireWriter): this {
    const data = value.finish();
    this.#parts.push(varint((field << 3) | 2), varint(data.length), data);
    return this;
  }

  finish(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

function varint(value: number | bigint): Buffer {
  const bytes: number[] = [];
  if (typeof value === 'number' && value < 0x8000_0000) {
    for (; value > 127; value >>>= 7) bytes.push((value & 127) | 128);
    bytes.push(value);
    return Buffer.from(bytes);
  }
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

/** Reads one message. A message that ends too early throws RangeError; unknown fields are skipped. */
export class WireReader {
  readonly #data: Buffer;
  #at: number;
  readonly #end: number;
  field = 0;
  #type = 0;

  constructor(data: Buffer, start = 0, end = data.length) {
    this.#data = data;
    this.#at = start;
    this.#end = end;
  }

  /** Moves to the next field; false at the end. */
  next(): boolean {
    if (this.#at >= this.#end) return false;
    const tag = this.#number();
    this.field = tag >>> 3;
    this.#type = tag & 7;
    return true;
  }

  number(): number {
    return this.#number();
  }

  bool(): boolean {
    return this.#number() !== 0;
  }

  bigint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#byte();
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw new RangeError('varint is too long');
  }

  /** A view into the message, valid as long as the message is kept. */
  bytes(): Buffer {
    const [start, end] = this.#span();
    return this.#data.subarray(start, end);
  }

  string(): string {
    return this.bytes().toString('utf8');
  }

  message(): WireReader {
    const [start, end] = this.#span();
    return new WireReader(this.#data, start, end);
  }

  skip(): void {
    if (this.#type === 0) this.bigint();
    else if (this.#type === 2) this.#span();
    else if (this.#type === 1) this.#at += 8;
    else if (this.#type === 5) this.#at += 4;
    else throw new RangeError(`wire type ${this.#type} is unknown`);
  }

  #span(): [number, number] {
    const length = this.#number();
    const start = this.#at;
    if (start + length > this.#end) throw new RangeError('field is longer than its message');
    this.#at = start + length;
    return [start, this.#at];
  }

  #number(): number {
    let value = 0;
    for (let scale = 1; scale < 2 ** 63; scale *= 128) {
      const byte = this.#byte();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new RangeError('varint is too long');
  }

  #byte(): number {
    if (this.#at >= this.#end) throw new RangeError('message ends inside a field');
    return this.#data[this.#at++] as number;
  }
}
