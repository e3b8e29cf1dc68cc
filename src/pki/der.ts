/**
 * Reads DER (X.690), strictly: definite lengths in their shortest form, tags below 31, nothing behind the end. Made for
 * input from strangers; it never recurses and copies nothing. Throws RangeError.
 */
export class DerReader {
  readonly #data: Buffer;
  #at: number;
  readonly #end: number;

  constructor(data: Buffer, start = 0, end = data.length) {
    this.#data = data;
    this.#at = start;
    this.#end = end;
  }

  get empty(): boolean {
    return this.#at >= this.#end;
  }

  /** The tag of the next element. */
  get tag(): number {
    const tag = this.#at < this.#end ? this.#data[this.#at] : undefined;
    if (tag === undefined) throw new RangeError('an element is missing');
    return tag;
  }

  /** The next element, which must have this tag: its whole encoding and its content. */
  element(tag: number): { readonly whole: Buffer; readonly content: Buffer } {
    if (this.tag !== tag) throw new RangeError(`tag ${this.tag} where ${tag} is expected`);
    const start = this.#at;
    const { length, size } = this.#length(start + 1);
    const from = start + 1 + size;
    if (from + length > this.#end) throw new RangeError('an element is longer than what holds it');
    this.#at = from + length;
    return { whole: this.#data.subarray(start, this.#at), content: this.#data.subarray(from, this.#at) };
  }

  /** Goes into a constructed element. */
  enter(tag: number): DerReader {
    return new DerReader(this.element(tag).content);
  }

  /** Nothing may follow. */
  end(): void {
    if (!this.empty) throw new RangeError('there is more than there should be');
  }

  #length(at: number): { length: number; size: number } {
    const first = this.#byte(at);
    if (first < 0x80) return { length: first, size: 1 };
    const count = first & 0x7f;
    // 24 bits are far more than anything that is read here.
    if (count === 0 || count > 3) throw new RangeError('a length is not definite, or too large');
    let length = 0;
    for (let i = 1; i <= count; i++) length = length * 256 + this.#byte(at + i);
    if (length < 0x80 || length < 256 ** (count - 1)) throw new RangeError('a length is not in its shortest form');
    return { length, size: 1 + count };
  }

  #byte(at: number): number {
    const byte = at < this.#end ? this.#data[at] : undefined;
    if (byte === undefined) throw new RangeError('the encoding ends inside an element');
    return byte;
  }
}

export const DER = {
  integer: 0x02,
  bitString: 0x03,
  oid: 0x06,
  utf8: 0x0c,
  printable: 0x13,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
} as const;
