import { DNS_HEADER, DNS_TYPE } from '../../core/dns.ts';
import type { Echo, Query } from './query.ts';
import { RCODE } from './query.ts';
import { type DnsRecord, RecordWriter } from './records.ts';

/** What is said to a question. */
export interface Answer {
  readonly rcode: number;
  /** Of one of our zones. */
  readonly authoritative: boolean;
  readonly answers: readonly DnsRecord[];
  readonly authority: readonly DnsRecord[];
  readonly additional: readonly DnsRecord[];
  /** Why, for whoever speaks EDNS (RFC 8914). */
  readonly reason?: number;
}

const FLAG = { response: 0x8000, authoritative: 0x0400, truncated: 0x0200 } as const;
/** Without EDNS (RFC 1035). */
const PLAIN_UDP = 512;
/** Nothing is cut into pieces on the loopback: larger than what is good on a network. */
const MAX_UDP = 4096;
const MAX_TCP = 65_535;
const OPT_BYTES = 11;
const REASON_BYTES = 6;
const EXTENDED_REASON = 15;

/** A header alone, for a query that could not be read. */
export function errorReply({ id, flags }: Echo, rcode: number): Buffer {
  const reply = Buffer.alloc(DNS_HEADER);
  reply.writeUInt16BE(id, 0);
  reply.writeUInt16BE(FLAG.response | flags | rcode, 2);
  return reply;
}

/**
 * The answer as bytes. What does not fit is cut as a whole and marked (TC), so that it is asked for again over TCP; additional
 * records alone are just left out.
 */
export function writeReply(query: Query, answer: Answer, transport: 'udp' | 'tcp'): Buffer {
  const { edns, question } = query;
  const opt = edns === undefined ? 0 : OPT_BYTES + (answer.reason === undefined ? 0 : REASON_BYTES);
  const writer = new RecordWriter(limitOf(query, transport) - opt);
  writer.raw(Buffer.alloc(DNS_HEADER));
  writer.raw(question.raw);
  writer.remember(question.name, DNS_HEADER);
  const body = writer.length;
  const counts = [answer.answers, answer.authority].map((records) => put(writer, records));
  const whole = counts[0] === answer.answers.length && counts[1] === answer.authority.length;
  if (!whole) writer.cut(body);
  const additional = whole ? put(writer, answer.additional) : 0;
  writer.setU16(0, query.id);
  const flags = FLAG.response | query.flags | (answer.authoritative ? FLAG.authoritative : 0);
  writer.setU16(2, flags | (whole ? 0 : FLAG.truncated) | (answer.rcode & 15));
  writer.setU16(4, 1);
  for (const [index, count] of (whole ? counts : [0, 0]).entries()) writer.setU16(6 + 2 * index, count);
  writer.setU16(10, additional + (edns === undefined ? 0 : 1));
  return edns === undefined ? writer.bytes() : Buffer.concat([writer.bytes(), optRecord(edns.dnssecOk, answer)]);
}

function limitOf({ edns }: Query, transport: 'udp' | 'tcp'): number {
  if (transport === 'tcp') return MAX_TCP;
  return edns === undefined ? PLAIN_UDP : Math.min(MAX_UDP, Math.max(PLAIN_UDP, edns.size));
}

/** @returns how many fitted */
function put(writer: RecordWriter, records: readonly DnsRecord[]): number {
  let count = 0;
  for (const record of records) {
    if (!writer.record(record)) break;
    count++;
  }
  return count;
}

function optRecord(dnssecOk: boolean, { rcode, reason }: Answer): Buffer {
  const writer = new RecordWriter(OPT_BYTES + REASON_BYTES);
  writer.u8(0);
  writer.u16(DNS_TYPE.opt);
  writer.u16(MAX_UDP);
  writer.u8(rcode >>> 4);
  writer.u8(0);
  writer.u16(dnssecOk ? 0x8000 : 0);
  writer.u16(reason === undefined ? 0 : REASON_BYTES);
  if (reason !== undefined) for (const value of [EXTENDED_REASON, 2, reason]) writer.u16(value);
  return writer.bytes();
}

/** No record at all. */
export function emptyAnswer(rcode: number, reason?: number): Answer {
  const authoritative = rcode === RCODE.ok || rcode === RCODE.noName;
  const nothing = { answers: [], authority: [], additional: [] };
  return { rcode, authoritative, ...nothing, ...(reason !== undefined && { reason }) };
}
