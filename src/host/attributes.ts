/**
 * Netlink attributes and messages (linux/netlink.h), written and read.
 *
 *   const writer = new AttributeWriter();
 *   const message = writer.beginMessage({ type: 16, flags: 5, seq: 1 });
 *   writer.raw(header);                      // ifinfomsg, nfgenmsg, ...
 *   writer.string(IFLA_IFNAME, 'mesh_vxlan');
 *   const info = writer.begin(IFLA_LINKINFO | NESTED);
 *   writer.u32(IFLA_VXLAN_ID, 1);
 *   writer.end(info);
 *   writer.endMessage(message);
 *   socket.send(writer.bytes());
 *
 * `u16`, `u32`, `u64` are in the host's byte order, which is little endian on every machine that we build for;
 * nftables and tunnel addresses want the `be` forms. The length of an attribute has 16 bits: `begin`/`end` refuse more
 * than 65,535 bytes with a RangeError, so watch `lengthSince` and start a new message in time.
 */

/** To be or-ed to the type of an attribute that holds attributes (NLA_F_NESTED). */
export const NESTED = 0x8000;
const TYPE_MASK = 0x3fff;
const HEADER = 4;
export const MESSAGE_HEADER = 16;
const MAX_ATTRIBUTE = 0xffff;

export interface MessageHeader {
  readonly type: number;
  readonly flags: number;
  readonly seq: number;
}

/** Grows by itself. Numbers are cut to their width, not checked: callers hand over numbers, never input. */
export class AttributeWriter {
  #buffer: Buffer;
  #length = 0;

  constructor(capacity = 4096) {
    this.#buffer = Buffer.allocUnsafe(Math.max(64, capacity));
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  /** A view of what was written, valid until the next write or `reset`. */
  bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  /** Forgets everything but keeps the memory. */
  reset(): void {
    this.#length = 0;
  }

  /** Forgets what was written after `length`: to take back the element that made an attribute too long. */
  truncate(length: number): void {
    if (length < this.#length) this.#length = length;
  }

  lengthSince(start: number): number {
    return this.#length - start;
  }

  /** Writes a message header. @returns the mark for `endMessage` */
  beginMessage(header: MessageHeader): number {
    const start = this.#reserve(MESSAGE_HEADER);
    this.#write32(start, 0);
    this.#write16(start + 4, header.type);
    this.#write16(start + 6, header.flags);
    this.#write32(start + 8, header.seq);
    this.#write32(start + 12, 0);
    return start;
  }

  endMessage(start: number): void {
    this.#write32(start, this.#length - start);
  }

  /** Opens a nested attribute; say `type | NESTED` where the kernel wants the flag. @returns the mark for `end` */
  begin(type: number): number {
    const start = this.#reserve(HEADER);
    this.#write16(start + 2, type);
    return start;
  }

  end(start: number): void {
    const length = this.#length - start;
    if (length > MAX_ATTRIBUTE) throw new RangeError(`netlink attribute of ${length} bytes`);
    this.#write16(start, length);
  }

  flag(type: number): void {
    this.#header(type, 0);
  }

  u8(type: number, value: number): void {
    this.#buffer[this.#header(type, 1)] = value;
  }

  u16(type: number, value: number): void {
    const at = this.#header(type, 2);
    this.#write16(at, value);
  }

  u32(type: number, value: number): void {
    const at = this.#header(type, 4);
    this.#write32(at, value);
  }

  u64(type: number, value: bigint): void {
    const at = this.#header(type, 8);
    this.#buffer.writeBigUInt64LE(BigInt.asUintN(64, value), at);
  }

  u16be(type: number, value: number): void {
    const at = this.#header(type, 2);
    this.#buffer[at] = value >>> 8;
    this.#buffer[at + 1] = value;
  }

  u32be(type: number, value: number): void {
    const at = this.#header(type, 4);
    this.#write32be(at, value);
  }

  u64be(type: number, value: bigint): void {
    const at = this.#header(type, 8);
    this.#buffer.writeBigUInt64BE(BigInt.asUintN(64, value), at);
  }

  /** Several 32-bit words in network order as one attribute: an address, a concatenated key. */
  wordsBe(type: number, words: ArrayLike<number>): void {
    const at = this.#header(type, words.length * 4);
    for (let i = 0; i < words.length; i++) this.#write32be(at + i * 4, words[i] as number);
  }

  /** UTF-8 with the closing NUL that the kernel wants. */
  string(type: number, text: string): void {
    const size = Buffer.byteLength(text);
    const at = this.#header(type, size + 1);
    this.#buffer.write(text, at);
    this.#buffer[at + size] = 0;
  }

  data(type: number, data: Uint8Array): void {
    const at = this.#header(type, data.length);
    this.#buffer.set(data, at);
  }

  /** Bytes outside of any attribute, padded to four: the fixed header of a message. */
  raw(data: Uint8Array): void {
    const at = this.#reserve(align(data.length));
    this.#buffer.set(data, at);
    this.#buffer.fill(0, at + data.length, this.#length);
  }

  /** Header and zeroed padding of an attribute; the offset of its value, valid in the present buffer. */
  #header(type: number, size: number): number {
    const length = HEADER + size;
    if (length > MAX_ATTRIBUTE) throw new RangeError(`netlink attribute of ${length} bytes`);
    const start = this.#reserve(align(length));
    this.#write16(start, length);
    this.#write16(start + 2, type);
    for (let i = start + length; i < this.#length; i++) this.#buffer[i] = 0;
    return start + HEADER;
  }

  #reserve(size: number): number {
    const start = this.#length;
    const length = start + size;
    if (length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(length, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, start);
      this.#buffer = larger;
    }
    this.#length = length;
    return start;
  }

  // Plain stores: half the time of Buffer's checked methods, and a list of addresses makes millions of them.
  #write16(at: number, value: number): void {
    this.#buffer[at] = value;
    this.#buffer[at + 1] = value >>> 8;
  }

  #write32(at: number, value: number): void {
    this.#buffer[at] = value;
    this.#buffer[at + 1] = value >>> 8;
    this.#buffer[at + 2] = value >>> 16;
    this.#buffer[at + 3] = value >>> 24;
  }

  #write32be(at: number, value: number): void {
    this.#buffer[at] = value >>> 24;
    this.#buffer[at + 1] = value >>> 16;
    this.#buffer[at + 2] = value >>> 8;
    this.#buffer[at + 3] = value;
  }
}

function align(length: number): number {
  return (length + 3) & ~3;
}

/**
 * Visits the attributes in `buffer[offset, end)` without making objects: type (flags cleared), start and length of the
 * value. Stops quietly where the bytes make no sense.
 */
export function forEachAttribute(
  buffer: Buffer,
  range: { readonly offset: number; readonly end: number },
  visit: (type: number, start: number, length: number) => void,
): void {
  const end = Math.min(range.end, buffer.length);
  for (let at = range.offset; at + HEADER <= end; ) {
    const length = buffer.readUInt16LE(at);
    if (length < HEADER || at + length > end) return;
    const type = buffer.readUInt16LE(at + 2) & TYPE_MASK;
    visit(type, at + HEADER, length - HEADER);
    at += align(length);
  }
}

/** The attributes of one level by type. A value that is shorter than asked for reads as `undefined`. */
export class Attributes {
  readonly #values = new Map<number, Buffer>();

  /** Of attributes with one type the last is kept; lists are read with `forEachAttribute`. */
  constructor(buffer: Buffer, offset = 0, end = buffer.length) {
    forEachAttribute(buffer, { offset, end }, (type, start, length) => {
      this.#values.set(type, buffer.subarray(start, start + length));
    });
  }

  has(type: number): boolean {
    return this.#values.has(type);
  }

  data(type: number): Buffer | undefined {
    return this.#values.get(type);
  }

  #sized(type: number, size: number): Buffer | undefined {
    const value = this.#values.get(type);
    return value !== undefined && value.length >= size ? value : undefined;
  }

  u8(type: number): number | undefined {
    return this.#sized(type, 1)?.readUInt8();
  }

  u16(type: number): number | undefined {
    return this.#sized(type, 2)?.readUInt16LE();
  }

  u32(type: number): number | undefined {
    return this.#sized(type, 4)?.readUInt32LE();
  }

  u64(type: number): bigint | undefined {
    return this.#sized(type, 8)?.readBigUInt64LE();
  }

  u16be(type: number): number | undefined {
    return this.#sized(type, 2)?.readUInt16BE();
  }

  u32be(type: number): number | undefined {
    return this.#sized(type, 4)?.readUInt32BE();
  }

  u64be(type: number): bigint | undefined {
    return this.#sized(type, 8)?.readBigUInt64BE();
  }

  /** Up to the first NUL. */
  string(type: number): string | undefined {
    const value = this.#values.get(type);
    if (value === undefined) return undefined;
    const nul = value.indexOf(0);
    return value.toString('utf8', 0, nul < 0 ? value.length : nul);
  }

  nested(type: number): Attributes | undefined {
    const value = this.#values.get(type);
    return value === undefined ? undefined : new Attributes(value);
  }
}
