import { DNS_CLASS_IN, DNS_HEADER, DNS_TYPE, type DnsCursor, readDnsName } from '../../core/dns.ts';
import type { Address } from '../../core/ip.ts';

/** What a DNS message (RFC 1035) says that matters to policies: the question, and the addresses that answer it. */
export interface DnsMessage {
  readonly id: number;
  readonly response: boolean;
  /** Name of the only question: lower case, without the final dot; empty for the root. */
  readonly name: string;
  /** Of a successful response: addresses of the name itself and of the names that it is an alias of. */
  readonly addresses: readonly { readonly address: Address; readonly ttl: number }[];
}

/** More records than any honest answer has over UDP. */
const MAX_RECORDS = 512;
const MAX_ALIASES = 16;

interface Answers {
  readonly aliases: Map<string, { to: string; ttl: number }>;
  readonly addresses: { owner: string; address: Address; ttl: number }[];
}

/** Reads a query or a response; undefined when it is none that we can use. Never throws: the bytes come from the network. */
export function readDnsMessage(data: Buffer): DnsMessage | undefined {
  if (data.length < DNS_HEADER) return undefined;
  const flags = data.readUInt16BE(2);
  const opcode = (flags >>> 11) & 15;
  if (opcode !== 0 || data.readUInt16BE(4) !== 1) return undefined;
  const cursor: DnsCursor = { at: DNS_HEADER };
  const name = readName(data, cursor);
  if (name === undefined || cursor.at + 4 > data.length) return undefined;
  cursor.at += 4;
  const message = { id: data.readUInt16BE(0), response: (flags & 0x8000) !== 0, name };
  const failed = (flags & 15) !== 0;
  if (!message.response || failed) return { ...message, addresses: [] };
  const answers = readAnswers(data, cursor, Math.min(data.readUInt16BE(6), MAX_RECORDS));
  return { ...message, addresses: resolve(name, answers) };
}

/** A truncated message counts as far as it goes. */
function readAnswers(data: Buffer, cursor: DnsCursor, count: number): Answers {
  const answers: Answers = { aliases: new Map(), addresses: [] };
  for (let i = 0; i < count; i++) {
    const owner = readName(data, cursor);
    if (owner === undefined || cursor.at + 10 > data.length) break;
    const type = data.readUInt16BE(cursor.at);
    const recordClass = data.readUInt16BE(cursor.at + 2);
    const ttl = data.readUInt32BE(cursor.at + 4);
    const length = data.readUInt16BE(cursor.at + 8);
    const start = cursor.at + 10;
    if (start + length > data.length) break;
    cursor.at = start + length;
    if (recordClass !== DNS_CLASS_IN) continue;
    // A TTL with its highest bit set means zero (RFC 2181, section 8).
    const life = ttl > 0x7fffffff ? 0 : ttl;
    if (type === DNS_TYPE.a && length === 4)
      answers.addresses.push({ owner, ttl: life, address: { family: 4, words: [data.readUInt32BE(start)] } });
    else if (type === DNS_TYPE.aaaa && length === 16) {
      const words = [0, 4, 8, 12].map((offset) => data.readUInt32BE(start + offset));
      answers.addresses.push({ owner, ttl: life, address: { family: 6, words } });
    } else if (type === DNS_TYPE.cname) {
      const to = readName(data, { at: start });
      if (to !== undefined) answers.aliases.set(owner, { to, ttl: life });
    }
  }
  return answers;
}

/** Follows the aliases from the question; what hangs on no alias of it is not believed. A chain lives as long as its shortest link. */
function resolve(name: string, answers: Answers): { address: Address; ttl: number }[] {
  const lives = new Map<string, number>([[name, Number.POSITIVE_INFINITY]]);
  let current = name;
  for (let i = 0; i < MAX_ALIASES; i++) {
    const alias = answers.aliases.get(current);
    if (alias === undefined || lives.has(alias.to)) break;
    lives.set(alias.to, Math.min(lives.get(current) ?? 0, alias.ttl));
    current = alias.to;
  }
  return answers.addresses
    .filter(({ owner }) => lives.has(owner))
    .map(({ owner, address, ttl }) => ({ address, ttl: Math.min(ttl, lives.get(owner) ?? 0) }));
}

/** A name in text; undefined for one that no host has. */
function readName(data: Buffer, cursor: DnsCursor): string | undefined {
  const labels = readDnsName(data, cursor);
  // A dot inside a label would make it look like two.
  return labels?.every((label) => /^[\x21-\x2d\x2f-\x7e]+$/.test(label)) === true ? labels.join('.') : undefined;
}
