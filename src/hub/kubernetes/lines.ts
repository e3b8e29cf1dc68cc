/** Takes a stream of bytes apart into lines, however it is cut: a character may be cut as well. */
export class LineSplitter {
  readonly #limit: number;
  #parts: Buffer[] = [];
  #size = 0;

  /** `limit`: bytes of a line. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Bytes of a line that has not ended yet. */
  get pending(): number {
    return this.#size;
  }

  /** The lines that end in it, without their ends, but empty ones. @throws RangeError a line is too long */
  *push(chunk: Buffer): Generator<Buffer> {
    let from = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, from);
      const part = chunk.subarray(from, end < 0 ? chunk.length : end);
      this.#size += part.length;
      if (this.#size > this.#limit) throw new RangeError(`a line has more than ${this.#limit} bytes`);
      if (part.length > 0) this.#parts.push(part);
      if (end < 0) return;
      const [only, ...more] = this.#parts;
      if (only !== undefined) yield more.length === 0 ? only : Buffer.concat(this.#parts, this.#size);
      this.#parts = [];
      this.#size = 0;
      from = end + 1;
    }
  }
}
