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

const TYPE = { a: 1, cname: 5, aaaa: 28 } as const;
const CLASS_IN = 1;
const HEADER = 12;
const MAX_NAME = 255;
/** More records than any honest answer has over UDP. */
const MAX_RECORDS = 512;
const MAX_ALIASES = 16;

interface Cursor {
  at: number;
}

interface Answers {
  readonly aliases: Map<string, { to: string; ttl: number }>;
  readonly addresses: { owner: string; address: Address; ttl: number }[];
}

/** Reads a query or a response; undefined when it is none that we can use. Never throws: the bytes come from the network. */
export function readDnsMessage(data: Buffer): DnsMessage | undefined {
  if (data.length < HEADER) return undefined;
  const flags = data.readUInt16BE(2);
  const opcode = (flags >>> 11) & 15;
  if (opcode !== 0 || data.readUInt16BE(4) !== 1) return undefined;
  const cursor: Cursor = { at: HEADER };
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
function readAnswers(data: Buffer, cursor: Cursor, count: number): Answers {
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
    if (recordClass !== CLASS_IN) continue;
    // A TTL with its highest bit set means zero (RFC 2181, section 8).
    const life = ttl > 0x7fffffff ? 0 : ttl;
    if (type === TYPE.a && length === 4)
      answers.addresses.push({ owner, ttl: life, address: { family: 4, words: [data.readUInt32BE(start)] } });
    else if (type === TYPE.aaaa && length === 16) {
      const words = [0, 4, 8, 12].map((offset) => data.readUInt32BE(start + offset));
      answers.addresses.push({ owner, ttl: life, address: { family: 6, words } });
    } else if (type === TYPE.cname) {
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

/** A name with its compression pointers, which may only lead backwards: so every name ends. Undefined for nonsense. */
function readName(data: Buffer, cursor: Cursor): string | undefined {
  const labels: string[] = [];
  let at = cursor.at;
  let limit = at;
  let jumped = false;
  let length = 0;
  for (;;) {
    const size = data[at];
    if (size === undefined) return undefined;
    if (size === 0) {
      if (!jumped) cursor.at = at + 1;
      return labels.join('.');
    }
    if ((size & 0xc0) === 0xc0) {
      const low = data[at + 1];
      if (low === undefined) return undefined;
      const target = ((size & 0x3f) << 8) | low;
      if (target >= limit) return undefined;
      if (!jumped) cursor.at = at + 2;
      jumped = true;
      limit = target;
      at = target;
      continue;
    }
    if (size > 63 || at + 1 + size > data.length) return undefined;
    length += size + 1;
    if (length > MAX_NAME) return undefined;
    const label = data.toString('latin1', at + 1, at + 1 + size).toLowerCase();
    // A dot inside a label would make it look like two.
    if (!/^[\x21-\x2d\x2f-\x7e]+$/.test(label)) return undefined;
    labels.push(label);
    at += 1 + size;
  }
}
