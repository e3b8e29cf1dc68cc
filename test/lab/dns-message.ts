import { DNS_TYPE, type DnsCursor, readDnsName } from '../../src/core/dns.ts';
import { formatAddress } from '../../src/core/ip.ts';
import { addressOfBytes } from '../../src/host/rtnetlink.ts';

export interface AskedQuestion {
  readonly name: string;
  readonly type: number;
  readonly class?: number;
  readonly id?: number;
  /** Besides the opcode 0; RD when not given. */
  readonly flags?: number;
  readonly edns?: { readonly size: number; readonly version?: number; readonly dnssecOk?: boolean };
}

/** A query as a resolver sends it. */
export function dnsQuery(asked: AskedQuestion): Buffer {
  const { name, type, edns, id = 0x1234, flags = 0x0100 } = asked;
  const words = (...values: number[]): Buffer => {
    const bytes = Buffer.alloc(2 * values.length);
    for (const [index, value] of values.entries()) bytes.writeUInt16BE(value, 2 * index);
    return bytes;
  };
  const parts = [words(id, flags, 1, 0, 0, edns === undefined ? 0 : 1), dnsName(name), words(type, asked.class ?? 1)];
  if (edns !== undefined)
    parts.push(Buffer.of(0), words(DNS_TYPE.opt, edns.size, edns.version ?? 0, edns.dnssecOk === true ? 0x8000 : 0, 0));
  return Buffer.concat(parts);
}

/** Text as it is: in its case, without an escape. */
export function dnsName(text: string): Buffer {
  const labels = text === '' ? [] : text.split('.');
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label, 'latin1')])),
    Buffer.of(0),
  ]);
}

export interface SeenReply {
  readonly id: number;
  readonly rcode: number;
  readonly authoritative: boolean;
  readonly truncated: boolean;
  readonly recursion: { readonly desired: boolean; readonly available: boolean };
  /** `name ttl TYPE data`, as people write it. */
  readonly answers: readonly string[];
  readonly authority: readonly string[];
  readonly additional: readonly string[];
  readonly edns: { readonly size: number; readonly dnssecOk: boolean; readonly reason: number | undefined } | undefined;
}

const NAMES: Readonly<Record<number, string>> = Object.fromEntries(
  Object.entries(DNS_TYPE).map(([name, number]) => [number, name.toUpperCase()]),
);

/** Reads a whole reply, and throws for one that is not whole. */
export function readReply(data: Buffer): SeenReply {
  const flags = data.readUInt16BE(2);
  const cursor: DnsCursor = { at: 12 };
  for (let i = data.readUInt16BE(4); i > 0; i--) {
    nameText(data, cursor);
    cursor.at += 4;
  }
  const records = [6, 8, 10].map((at) =>
    Array.from({ length: data.readUInt16BE(at) }, () => readRecord(data, cursor)),
  ) as [Seen[], Seen[], Seen[]];
  if (cursor.at !== data.length) throw new Error(`${data.length - cursor.at} bytes too many`);
  const [answers, authority, additional] = records;
  const opt = additional.find(({ type }) => type === DNS_TYPE.opt);
  const text = (list: readonly Seen[]): string[] =>
    list.filter(({ type }) => type !== DNS_TYPE.opt).map((each) => each.text);
  return {
    id: data.readUInt16BE(0),
    rcode: (flags & 15) | (((opt?.ttl ?? 0) >>> 24) << 4),
    authoritative: (flags & 0x0400) !== 0,
    truncated: (flags & 0x0200) !== 0,
    recursion: { desired: (flags & 0x0100) !== 0, available: (flags & 0x0080) !== 0 },
    answers: text(answers),
    authority: text(authority),
    additional: text(additional),
    edns: opt && {
      size: opt.class,
      dnssecOk: (opt.ttl & 0x8000) !== 0,
      reason: opt.data.length >= 6 ? opt.data.readUInt16BE(4) : undefined,
    },
  };
}

interface Seen {
  readonly type: number;
  readonly class: number;
  readonly ttl: number;
  readonly data: Buffer;
  readonly text: string;
}

function readRecord(message: Buffer, cursor: DnsCursor): Seen {
  const owner = nameText(message, cursor);
  const at = cursor.at;
  const [type, recordClass, ttl] = [
    message.readUInt16BE(at),
    message.readUInt16BE(at + 2),
    message.readUInt32BE(at + 4),
  ];
  const start = at + 10;
  cursor.at = start + message.readUInt16BE(at + 8);
  if (cursor.at > message.length) throw new Error('a record is cut');
  const data = message.subarray(start, cursor.at);
  const said = dataText(message, { type, start, data });
  return { type, class: recordClass, ttl, data, text: `${owner} ${ttl} ${NAMES[type]} ${said}` };
}

function dataText(message: Buffer, { type, start, data }: { type: number; start: number; data: Buffer }): string {
  switch (type) {
    case DNS_TYPE.a:
    case DNS_TYPE.aaaa: {
      const address = addressOfBytes(type === DNS_TYPE.a ? 4 : 6, data);
      return address === undefined ? '?' : formatAddress(address);
    }
    case DNS_TYPE.ns:
      return nameText(message, { at: start });
    case DNS_TYPE.srv: {
      const numbers = [0, 2, 4].map((offset) => data.readUInt16BE(offset)).join(' ');
      return `${numbers} ${nameText(message, { at: start + 6 })}`;
    }
    case DNS_TYPE.soa: {
      const cursor = { at: start };
      const [server, contact] = [nameText(message, cursor), nameText(message, cursor)];
      return `${server} ${contact} ${message.readUInt32BE(cursor.at + 16)}`;
    }
    default:
      return data.toString('latin1').replace(/[^\x20-\x7e]/g, '');
  }
}

function nameText(message: Buffer, cursor: DnsCursor): string {
  const labels = readDnsName(message, cursor);
  if (labels === undefined) throw new Error('a name cannot be read');
  return labels.join('.');
}
