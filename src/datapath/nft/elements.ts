import { AttributeWriter, forEachAttribute, NESTED } from '../../host/attributes.ts';
import type { NetlinkSocket } from '../../host/netlink.ts';
import type { VerdictKind } from '../verdict-log.ts';
import { hostMap, shardOf, TABLE } from './names.ts';

/** Element messages of nfnetlink (linux/netfilter/nf_tables.h). */
export const SUBSYSTEM = 10 << 8;
export const NFT = {
  getTable: 1,
  getChain: 4,
  getRule: 7,
  newSetElem: 12,
  getSetElem: 13,
  delSetElem: 14,
  newGen: 15,
  getGen: 16,
  getObject: 19,
} as const;
export const INET = 1;
export const NETDEV = 5;

/** How a map of ours is keyed: plain, `interval` (first and last, one field), `ranges` (concatenation with a range). */
export type SetKind = 'plain' | 'interval' | 'ranges';
/** What an element leads to. */
export type SetData = 'none' | 'mark' | 'verdict' | 'bytes';
export interface SetShape {
  readonly kind: SetKind;
  readonly data: SetData;
}

const plain = (data: SetData): SetShape => ({ kind: 'plain', data });
const side = (name: 'in' | 'out'): [string, SetShape][] => [
  [`port_${name}`, plain('verdict')],
  [`range_${name}`, { kind: 'ranges', data: 'verdict' }],
  [`icmp4_${name}`, plain('verdict')],
  [`icmp6_${name}`, plain('verdict')],
  [`proto_${name}`, plain('verdict')],
  [`all_${name}`, plain('verdict')],
  [`class_${name}`, plain('mark')],
  [`others_${name}`, plain('mark')],
];

/** Every map and set that is kept by deltas, besides those of single addresses. */
export const SHAPES: ReadonlyMap<string, SetShape> = new Map<string, SetShape>([
  ...side('in'),
  ...side('out'),
  ['cidr4', { kind: 'interval', data: 'mark' }],
  ['cidr6', { kind: 'interval', data: 'mark' }],
  ['world', plain('mark')],
  ...['external', 'overlay', 'tunnel', 'nodes4', 'nodes6', 'failsafe_in', 'failsafe_out', 'stores4', 'stores6']
    .concat('audits', 'watched', 'exempt_in', 'exempt_out')
    .map((name): [string, SetShape] => [name, plain('none')]),
]);

/**
 * Verdict codes: those of the kernel, and codes of our own for what goes to a chain that counts and tells
 * (`verdict-rules.ts`). Going to a chain makes the kernel look through all verdicts when it is added, 1.5 ms for 16,000 rows:
 * rows of policies may do that, addresses may not.
 */
export const VERDICT = { drop: 0, return: -5, denyRule: -100, noRule: -101, audited: -102 } as const;
const GOTO = -4;
const GOES_TO: ReadonlyMap<number, VerdictKind> = new Map([
  [VERDICT.denyRule, 'deny_rule'],
  [VERDICT.noRule, 'no_rule'],
  [VERDICT.audited, 'audited'],
]);
const CODE_OF: ReadonlyMap<string, number> = new Map(
  [...GOES_TO].flatMap(([code, kind]) => (['in', 'out'] as const).map((way) => [`${kind}_${way}`, code])),
);

const MAX_LIST = 60_000;

/** Writes element changes; everything since the last `send` is one transaction. */
export class ElementBatch {
  readonly #socket: NetlinkSocket;
  readonly #writer = new AttributeWriter(1 << 16);
  #open: { set: string; remove: boolean; message: number; list: number } | undefined;
  #seq = 0;
  added = 0;
  removed = 0;

  constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  get size(): number {
    return this.#writer.length;
  }

  /** `key` is first and last for the kinds that have both. `value` is a mark or a verdict code, or bytes; nothing for a removal. */
  element(set: string, shape: SetShape, remove: boolean, key: Uint8Array, value: number | Uint8Array): void {
    const writer = this.#list(set, remove);
    const half = key.length / 2;
    const at = writer.begin(1 | NESTED);
    data(writer, 1, shape.kind === 'plain' ? key : key.subarray(0, half));
    if (shape.kind === 'ranges') data(writer, 10, key.subarray(half));
    if (!remove) this.#value(set, shape, value);
    writer.end(at);
    if (shape.kind === 'interval') this.#intervalEnd(key.subarray(half));
    if (remove) this.removed++;
    else this.added++;
  }

  #value(set: string, shape: SetShape, value: number | Uint8Array): void {
    const writer = this.#writer;
    if (shape.data === 'none') return;
    const at = writer.begin(2 | NESTED);
    if (typeof value !== 'number') writer.data(1, value);
    else if (shape.data === 'mark') writer.u32(1, value);
    else {
      const verdict = writer.begin(2 | NESTED);
      const kind = GOES_TO.get(value);
      writer.u32be(1, kind === undefined ? value : GOTO);
      if (kind !== undefined) writer.string(2, `${kind}_${set.endsWith('_in') ? 'in' : 'out'}`);
      writer.end(verdict);
    }
    writer.end(at);
  }

  /** The same for one single address, given as its words. `value` undefined takes it away. */
  host(key: ArrayLike<number>, value: number | undefined): void {
    const family = key.length === 1 ? 4 : 6;
    const writer = this.#list(hostMap(family, shardOf(key[key.length - 1] as number)), value === undefined);
    const at = writer.begin(1 | NESTED);
    const keyAt = writer.begin(1 | NESTED);
    writer.wordsBe(1, key);
    writer.end(keyAt);
    if (value === undefined) this.removed++;
    else {
      const valueAt = writer.begin(2 | NESTED);
      writer.u32(1, value);
      writer.end(valueAt);
      this.added++;
    }
    writer.end(at);
  }

  #intervalEnd(last: Uint8Array): void {
    const end = Uint8Array.from(last);
    let index = end.length - 1;
    while (index >= 0 && end[index] === 255) end[index--] = 0;
    if (index < 0) return; // Up to the last address: such an interval stays open.
    end[index] = (end[index] as number) + 1;
    const at = this.#writer.begin(1 | NESTED);
    this.#writer.u32be(3, 1);
    data(this.#writer, 1, end);
    this.#writer.end(at);
  }

  #list(set: string, remove: boolean): AttributeWriter {
    const writer = this.#writer;
    const open = this.#open;
    if (open !== undefined && open.set === set && open.remove === remove && writer.lengthSince(open.list) < MAX_LIST)
      return writer;
    this.#closeList(false);
    if (writer.length === 0) this.#control(0x10, 1);
    this.#seq = this.#socket.takeSeq();
    const message = writer.beginMessage({
      type: SUBSYSTEM | (remove ? NFT.delSetElem : NFT.newSetElem),
      flags: remove ? 0x1 : 0x401,
      seq: this.#seq,
    });
    writer.raw(Uint8Array.of(INET, 0, 0, 0));
    writer.string(1, TABLE);
    writer.string(2, set);
    this.#open = { set, remove, message, list: writer.begin(3 | NESTED) };
    return writer;
  }

  #closeList(last: boolean): void {
    const open = this.#open;
    if (open === undefined) return;
    this.#writer.end(open.list);
    this.#writer.endMessage(open.message);
    if (last) this.#writer.bytes()[open.message + 6] = 0x5; // REQUEST | ACK
    this.#open = undefined;
  }

  #control(type: number, flags: number): void {
    const seq = this.#socket.takeSeq();
    const message = this.#writer.beginMessage({ type, flags, seq });
    this.#writer.raw(Uint8Array.of(0, 0, 0, 10));
    this.#writer.endMessage(message);
  }

  /** Sends what was written as one transaction. @returns false when there was nothing */
  async send(): Promise<boolean> {
    if (this.#open === undefined) return false;
    this.#closeList(true);
    const lastSeq = this.#seq;
    this.#control(0x11, 1);
    const bytes = Buffer.from(this.#writer.bytes());
    this.#writer.reset();
    await this.#socket.batch({ data: bytes, lastSeq, operation: 'write policy elements', timeoutMs: 60_000 });
    return true;
  }
}

function data(writer: AttributeWriter, type: number, value: Uint8Array): void {
  const at = writer.begin(type | NESTED);
  writer.data(1, value);
  writer.end(at);
}

/** One element as the kernel told it. */
export interface KernelElement {
  readonly key: Buffer;
  readonly keyEnd: Buffer | undefined;
  readonly value: number;
  /** What it leads to, where that is longer than a number. */
  readonly data?: Buffer;
  readonly intervalEnd: boolean;
  readonly packets: number;
  readonly bytes: number;
}

/** Streams the elements of one set. */
export async function dumpElements(
  socket: NetlinkSocket,
  set: string,
  visit: (element: KernelElement) => void,
): Promise<void> {
  const writer = new AttributeWriter();
  writer.raw(Uint8Array.of(INET, 0, 0, 0));
  writer.string(1, TABLE);
  writer.string(2, set);
  await socket.dump({ type: SUBSYSTEM | NFT.getSetElem, body: writer.bytes(), operation: `read ${set}` }, (message) => {
    const body = message.body;
    forEachAttribute(body, { offset: 4, end: body.length }, (type, start, length) => {
      if (type !== 3) return;
      forEachAttribute(body, { offset: start, end: start + length }, (_, at, size) =>
        visit(readElement(body, at, size)),
      );
    });
  });
}

function readElement(body: Buffer, offset: number, length: number): KernelElement {
  let key: Buffer = Buffer.alloc(0);
  let keyEnd: Buffer | undefined;
  let value = 0;
  let data: Buffer | undefined;
  let flags = 0;
  const counter = { packets: 0, bytes: 0 };
  forEachAttribute(body, { offset, end: offset + length }, (type, start, size) => {
    if (type === 1) key = insideOf(body, start);
    else if (type === 10) keyEnd = insideOf(body, start);
    else if (type === 2) {
      value = readValue(body, start);
      if (isLong(body, start, size)) data = insideOf(body, start);
    } else if (type === 3) flags = body.readUInt32BE(start);
    else if (type === 7) readCounter(body, start, size, counter);
  });
  return { key, keyEnd, value, intervalEnd: (flags & 1) !== 0, ...counter, ...(data !== undefined && { data }) };
}

/** The value in a nested attribute, without the padding that follows it. */
function insideOf(body: Buffer, start: number): Buffer {
  return body.subarray(start + 4, start + body.readUInt16LE(start));
}

/** A value that is no mark and no verdict. */
function isLong(body: Buffer, start: number, size: number): boolean {
  return size > 8 && (body.readUInt16LE(start + 2) & 0x3fff) === 1;
}

function readValue(body: Buffer, start: number): number {
  const verdict = (body.readUInt16LE(start + 2) & 0x3fff) === 2;
  if (!verdict) return body.readUInt32LE(start + 4);
  const code = body.readInt32BE(start + 8);
  if (code !== GOTO || body.readUInt16LE(start) <= 16) return code;
  // The name of the chain, with its closing NUL, is the attribute behind the code.
  const name = body.toString('latin1', start + 16, start + 12 + body.readUInt16LE(start + 12) - 1);
  return CODE_OF.get(name) ?? code;
}

function readCounter(body: Buffer, start: number, length: number, into: { packets: number; bytes: number }): void {
  forEachAttribute(body, { offset: start, end: start + length }, (type, at, size) => {
    if (type !== 2) return;
    forEachAttribute(body, { offset: at, end: at + size }, (field, value, width) => {
      if (width !== 8) return;
      if (field === 1) into.bytes = Number(body.readBigUInt64BE(value));
      else if (field === 2) into.packets = Number(body.readBigUInt64BE(value));
    });
  });
}
