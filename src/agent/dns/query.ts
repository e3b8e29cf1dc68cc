import { DNS_HEADER, DNS_TYPE, type DnsCursor, readDnsName } from '../../core/dns.ts';

/** A name, label by label, lower case, without the root. */
export type Labels = readonly string[];

export interface Question {
  readonly name: Labels;
  readonly type: number;
  readonly class: number;
  /** As it came, in whatever case: an answer repeats it to the byte. */
  readonly raw: Buffer;
}

/** RFC 6891. */
export interface Edns {
  /** Bytes that the other side takes over UDP. */
  readonly size: number;
  readonly version: number;
  readonly dnssecOk: boolean;
}

/** What every answer gives back of a query, whatever came of it. */
export interface Echo {
  readonly id: number;
  /** Opcode, RD and CD, where they stand in the flags. */
  readonly flags: number;
}

export interface Query extends Echo {
  readonly question: Question;
  readonly edns: Edns | undefined;
}

export type Parsed =
  | { readonly kind: 'query'; readonly query: Query }
  /** Answered with this code (RFC 1035, 4.1.1). */
  | { readonly kind: 'refused'; readonly echo: Echo; readonly rcode: number }
  /** Not to be answered: not even a header, or an answer itself, which would go to and fro for ever. */
  | { readonly kind: 'nonsense' };

export const RCODE = {
  ok: 0,
  format: 1,
  failure: 2,
  noName: 3,
  notImplemented: 4,
  refused: 5,
  badVersion: 16,
} as const;

const ECHOED = 0x7910;
/** More than any honest query carries besides its question. */
const MAX_RECORDS = 8;

/** Reads a query as it came from anybody. Never throws. */
export function parseQuery(data: Buffer): Parsed {
  if (data.length < DNS_HEADER) return { kind: 'nonsense' };
  const flags = data.readUInt16BE(2);
  if ((flags & 0x8000) !== 0) return { kind: 'nonsense' };
  const echo: Echo = { id: data.readUInt16BE(0), flags: flags & ECHOED };
  if ((flags & 0x7800) !== 0) return { kind: 'refused', echo, rcode: RCODE.notImplemented };
  const cursor: DnsCursor = { at: DNS_HEADER };
  const question = data.readUInt16BE(4) === 1 ? readQuestion(data, cursor) : undefined;
  const edns = question && readRest(data, cursor);
  if (question === undefined || edns === undefined) return { kind: 'refused', echo, rcode: RCODE.format };
  return { kind: 'query', query: { ...echo, question, edns: edns === 'none' ? undefined : edns } };
}

function readQuestion(data: Buffer, cursor: DnsCursor): Question | undefined {
  const name = readDnsName(data, cursor);
  const end = cursor.at + 4;
  if (name === undefined || end > data.length) return undefined;
  // Nothing stands before it that a pointer could mean.
  const length = name.reduce((sum, label) => sum + label.length + 1, 1);
  if (cursor.at !== DNS_HEADER + length) return undefined;
  const [type, dnsClass] = [data.readUInt16BE(cursor.at), data.readUInt16BE(cursor.at + 2)];
  cursor.at = end;
  return { name, type, class: dnsClass, raw: data.subarray(DNS_HEADER, end) };
}

/** The OPT record among what follows; undefined for nonsense, or more than one. */
function readRest(data: Buffer, cursor: DnsCursor): Edns | 'none' | undefined {
  const [answers, authorities, additional] = [6, 8, 10].map((at) => data.readUInt16BE(at)) as [number, number, number];
  const before = answers + authorities;
  if (before + additional > MAX_RECORDS) return undefined;
  let edns: Edns | 'none' = 'none';
  for (let i = 0; i < before + additional; i++) {
    const owner = readDnsName(data, cursor);
    const at = cursor.at;
    if (owner === undefined || at + 10 > data.length) return undefined;
    cursor.at = at + 10 + data.readUInt16BE(at + 8);
    if (cursor.at > data.length) return undefined;
    if (data.readUInt16BE(at) !== DNS_TYPE.opt) continue;
    if (edns !== 'none' || owner.length > 0 || i < before) return undefined;
    const dnssecOk = (data.readUInt16BE(at + 6) & 0x8000) !== 0;
    edns = { size: data.readUInt16BE(at + 2), version: data.readUInt8(at + 5), dnssecOk };
  }
  return cursor.at === data.length ? edns : undefined;
}
