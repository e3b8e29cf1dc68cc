/** gRPC's frames: a byte of flags, the length in four bytes, the message. */
const HEAD = 5;

/**
 * Cuts a stream of bytes into gRPC messages, whatever pieces it comes in. Messages that are compressed or larger than `max` are
 * refused, since nobody could look into them.
 */
export class MessageSplitter {
  readonly #max: number;
  #held: Buffer = Buffer.alloc(0);

  constructor(max: number) {
    this.#max = max;
  }

  /** Whether it ended between two messages. */
  get empty(): boolean {
    return this.#held.length === 0;
  }

  /** The complete messages, each with its frame. Throws RangeError. */
  push(chunk: Buffer): { readonly frame: Buffer; readonly message: Buffer }[] {
    const data = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const found: { frame: Buffer; message: Buffer }[] = [];
    let at = 0;
    while (data.length - at >= HEAD) {
      if (data[at] !== 0) throw new RangeError('compressed messages are not taken');
      const length = data.readUInt32BE(at + 1);
      if (length > this.#max) throw new RangeError(`a message has more than ${this.#max} bytes`);
      const end = at + HEAD + length;
      if (end > data.length) break;
      found.push({ frame: data.subarray(at, end), message: data.subarray(at + HEAD, end) });
      at = end;
    }
    this.#held = Buffer.from(data.subarray(at));
    return found;
  }
}
