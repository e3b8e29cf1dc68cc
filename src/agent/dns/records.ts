import { DNS_TYPE } from '../../core/dns.ts';
import type { Address } from '../../core/ip.ts';
import type { Labels } from './query.ts';

export type RecordData =
  | { readonly type: 'a' | 'aaaa'; readonly address: Address }
  | { readonly type: 'ns'; readonly name: Labels }
  /** RFC 2782. */
  | { readonly type: 'srv'; readonly weight: number; readonly port: number; readonly target: Labels }
  | { readonly type: 'soa'; readonly server: Labels; readonly contact: Labels; readonly minimum: number }
  | { readonly type: 'hinfo'; readonly cpu: string; readonly os: string };

export interface DnsRecord {
  readonly owner: Labels;
  /** Seconds. */
  readonly ttl: number;
  readonly data: RecordData;
}

export function addressRecord(owner: Labels, address: Address, ttl: number): DnsRecord {
  return { owner, ttl, data: { type: address.family === 4 ? 'a' : 'aaaa', address } };
}

/** Nobody transfers the zone: the numbers that govern this mean nothing. */
const SERIAL = 1;
const REFRESH = 3600;
const RETRY = 1200;
const EXPIRE = 604_800;

/** Bytes that only grow, with the names that they hold. */
export class RecordWriter {
  readonly #bytes: Buffer;
  readonly #limit: number;
  readonly #names = new Map<string, number>();
  length = 0;

  /** More than `limit` bytes are never written. */
  constructor(limit: number) {
    this.#limit = limit;
    this.#bytes = Buffer.alloc(limit);
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.length);
  }

  u8(value: number): void {
    this.#room(1);
    this.length = this.#bytes.writeUInt8(value, this.length);
  }

  u16(value: number): void {
    this.#room(2);
    this.length = this.#bytes.writeUInt16BE(value, this.length);
  }

  u32(value: number): void {
    this.#room(4);
    this.length = this.#bytes.writeUInt32BE(value >>> 0, this.length);
  }

  raw(bytes: Buffer): void {
    this.#room(bytes.length);
    this.length += bytes.copy(this.#bytes, this.length);
  }

  setU16(at: number, value: number): void {
    this.#bytes.writeUInt16BE(value, at);
  }

  /** What stands at an offset already. */
  remember(name: Labels, at: number): void {
    let offset = at;
    for (const [index, label] of name.entries()) {
      this.#names.set(keyOf(name.slice(index)), offset);
      offset += label.length + 1;
    }
  }

  /** Ends with a pointer where the rest of the name stands already. */
  name(name: Labels): void {
    for (const [index, label] of name.entries()) {
      const rest = keyOf(name.slice(index));
      const known = this.#names.get(rest);
      if (known !== undefined) {
        this.u16(0xc000 | known);
        return;
      }
      // A pointer has 14 bits.
      if (this.length < 0x4000) this.#names.set(rest, this.length);
      this.#label(label);
    }
    this.u8(0);
  }

  /** For names that may not be compressed. */
  wholeName(name: Labels): void {
    for (const label of name) this.#label(label);
    this.u8(0);
  }

  #label(label: string): void {
    this.#room(label.length + 1);
    this.length = this.#bytes.writeUInt8(label.length, this.length);
    this.length += this.#bytes.write(label, this.length, 'latin1');
  }

  /** Undone when it does not fit. @returns whether it did */
  record(record: DnsRecord): boolean {
    const start = this.length;
    try {
      this.name(record.owner);
      this.u16(DNS_TYPE[record.data.type]);
      this.u16(1);
      this.u32(record.ttl);
      const at = this.length;
      this.u16(0);
      writeData(this, record.data);
      this.setU16(at, this.length - at - 2);
      return true;
    } catch (error) {
      if (!(error instanceof Full)) throw error;
      this.cut(start);
      return false;
    }
  }

  /** Takes back what was written from there on. */
  cut(length: number): void {
    this.length = length;
    for (const [name, at] of this.#names) if (at >= length) this.#names.delete(name);
  }

  #room(count: number): void {
    if (this.length + count > this.#limit) throw new Full();
  }
}

class Full extends Error {}

function writeData(writer: RecordWriter, data: RecordData): void {
  switch (data.type) {
    case 'a':
    case 'aaaa':
      for (const word of data.address.words) writer.u32(word);
      return;
    case 'ns':
      writer.name(data.name);
      return;
    case 'srv':
      writer.u16(0);
      writer.u16(data.weight);
      writer.u16(data.port);
      writer.wholeName(data.target);
      return;
    case 'soa':
      writer.name(data.server);
      writer.name(data.contact);
      for (const value of [SERIAL, REFRESH, RETRY, EXPIRE, data.minimum]) writer.u32(value);
      return;
    case 'hinfo':
      for (const text of [data.cpu, data.os]) {
        writer.u8(text.length);
        writer.raw(Buffer.from(text, 'latin1'));
      }
  }
}

/** Any byte may stand in a label, also a dot. */
const keyOf = (name: Labels): string => name.map((label) => `${label.length}:${label}`).join('');
