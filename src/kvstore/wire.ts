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

  /** A number of a oneof, whose presence has a meaning: written even when it is zero. */
  present(field: number, value: number | bigint): this {
    this.#parts.push(varint(field << 3), varint(value));
    return this;
  }

  /** The same for bytes: written even when they are empty. */
  presentBytes(field: number, value: string | Uint8Array): this {
    const data = Buffer.from(value);
    this.#parts.push(varint((field << 3) | 2), varint(data.length), data);
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
  if (typeof value === 'number' && value >= 0 && value < 0x8000_0000) {
    for (; value > 127; value >>>= 7) bytes.push((value & 127) | 128);
    bytes.push(value);
    return Buffer.from(bytes);
  }
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

/**
 * Reads one message, and its sub-messages in place (`enter`, `leave`): a list of a million keys makes no reader per key.
 * A message that ends too early throws RangeError; unknown fields are skipped.
 */
export class WireReader {
  readonly data: Buffer;
  #at = 0;
  #end: number;
  #type = 0;
  field = 0;

  constructor(data: Buffer) {
    this.data = data;
    this.#end = data.length;
  }

  /** Moves to the next field; false at the end. */
  next(): boolean {
    if (this.#at >= this.#end) return false;
    const tag = this.#varint();
    // Larger than any tag: other readers would cut it, and see another field than we.
    if (!(tag >= 8 && tag <= 0xffff_ffff)) throw new RangeError('a field without a number');
    this.field = tag >>> 3;
    this.#type = tag & 7;
    return true;
  }

  /** A signed number; what does not fit in 53 bits loses its last digits. */
  number(): number {
    this.#expect(0);
    return this.#varint();
  }

  #varint(): number {
    const { data } = this;
    let value = 0;
    let scale = 1;
    for (let length = 0; length < 10; length++) {
      if (this.#at >= this.#end) throw new RangeError('message ends inside a field');
      const byte = data[this.#at++] as number;
      if (byte < 128) return length < 9 ? value + byte * scale : this.#negative(length);
      value += (byte & 127) * scale;
      scale *= 128;
    }
    throw new RangeError('varint is too long');
  }

  bool(): boolean {
    return this.number() !== 0;
  }

  bigint(): bigint {
    this.#expect(0);
    return this.#bigVarint();
  }

  #bigVarint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (this.#at >= this.#end) throw new RangeError('message ends inside a field');
      const byte = this.data[this.#at++] as number;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw new RangeError('varint is too long');
  }

  /** A view into the message. */
  bytes(): Buffer {
    const end = this.#span();
    const view = this.data.subarray(this.#at, end);
    this.#at = end;
    return view;
  }

  string(): string {
    const end = this.#span();
    const text = this.data.toString('utf8', this.#at, end);
    this.#at = end;
    return text;
  }

  /** A string behind a prefix that it must begin with; undefined when it does not. */
  stringAfter(prefix: Buffer): string | undefined {
    const end = this.#span();
    const start = this.#at + prefix.length;
    const begins = start <= end && this.data.compare(prefix, 0, prefix.length, this.#at, start) === 0;
    this.#at = end;
    return begins ? this.data.toString('utf8', start, end) : undefined;
  }

  /** Goes into a sub-message: `next` then ends with it. The answer is what `leave` needs. */
  enter(): number {
    const end = this.#span();
    const outer = this.#end;
    this.#end = end;
    return outer;
  }

  leave(outer: number): void {
    this.#at = this.#end;
    this.#end = outer;
  }

  skip(): void {
    if (this.#type === 0) this.#bigVarint();
    else if (this.#type === 2) this.#at = this.#span();
    else if (this.#type === 1) this.#jump(8);
    else if (this.#type === 5) this.#jump(4);
    else throw new RangeError(`wire type ${this.#type} is unknown`);
  }

  /** The end of a length-delimited field; leaves the position at its start. */
  #span(): number {
    this.#expect(2);
    const length = this.#varint();
    const end = this.#at + length;
    if (!(end >= this.#at && end <= this.#end)) throw new RangeError('field is longer than its message');
    return end;
  }

  #expect(type: number): void {
    if (this.#type !== type) throw new RangeError(`wire type ${this.#type} where ${type} is expected`);
  }

  #jump(length: number): void {
    if (this.#at + length > this.#end) throw new RangeError('message ends inside a field');
    this.#at += length;
  }

  /** Ten bytes: a negative 64-bit number, such as the watch id -1. */
  #negative(length: number): number {
    this.#at -= length + 1;
    return Number(BigInt.asIntN(64, this.#bigVarint()));
  }
}
