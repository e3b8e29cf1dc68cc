import { type Address, type Family, formatAddress, formatPrefix, type Prefix, type Words } from '../../core/ip.ts';
import { AttributeWriter, forEachAttribute, NESTED } from '../../host/attributes.ts';
import {
  type NetlinkSocket,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  NLM_F_REQUEST,
} from '../../host/netlink.ts';
import type { NetlinkError } from '../../host/netlink-error.ts';
import {
  AF_INET,
  AF_INET6,
  addressOfBytes,
  familyOf,
  ROUTE_HEADER,
  RT_TABLE_MAIN,
  RTA,
  RTM,
  RTN_UNICAST,
  SCOPE,
} from '../../host/rtnetlink.ts';

/** Routes of ours have this protocol number, lead to our device, and have a metric of our range. */
export const PROTOCOL = 77;
/**
 * Above what people and other programs use: where a foreign route leads to the very same prefix it stands beside ours
 * and is preferred, and neither can take the place of the other.
 */
const FIRST_METRIC = 20480;
const METRICS = 4096;

/**
 * The metric of a route follows from its tunnel endpoint. It decides nothing: the kernel finds what routes share by a
 * hash that knows the metric but not the endpoint. With one metric, 100,000 routes to 1,000 endpoints took 8 s, not 1 s.
 */
export function metricOf(via: Address): number {
  let hash: number = via.family;
  for (const word of via.words) hash = Math.imul(hash ^ word ^ (word >>> 15), 0x9e3779b1);
  return FIRST_METRIC + ((hash ^ (hash >>> 15)) & (METRICS - 1));
}

export function isOurMetric(metric: number): boolean {
  return metric >= FIRST_METRIC && metric < FIRST_METRIC + METRICS;
}

/** linux/lwtunnel.h; the numbers of the IPv6 form are the same. */
const ENCAP = { id: 1, destination: 2, source: 3, flags: 6 } as const;
const ENCAP_IP = 2;
const ENCAP_IP6 = 4;
// TUNNEL_CSUM, big endian: over IPv6 an outer packet without a checksum is dropped by most receivers.
const CHECKSUM = 0x0001;

/** What all routes of one moment have in common. */
export interface RouteShape {
  /** Index of the overlay device. */
  readonly device: number;
  /** Network number of the outer packets: our own identity. */
  readonly identity: number;
  /** Source of our inner packets by family; without one there are no routes of that family. */
  readonly source4: Address | undefined;
  readonly source6: Address | undefined;
  /** Source of the outer packets by family; left to the kernel when undefined. */
  readonly outer4: Address | undefined;
  readonly outer6: Address | undefined;
}

/** A route of ours as the kernel has it. */
export interface KernelRoute {
  readonly prefix: Prefix;
  readonly via: Address;
  readonly metric: number;
  /** Everything but the tunnel endpoint is as the shape says. */
  readonly right: boolean;
}

export function sourceOf(shape: RouteShape, family: Family): Address | undefined {
  return family === 4 ? shape.source4 : shape.source6;
}

function outerOf(shape: RouteShape, family: Family): Address | undefined {
  return family === 4 ? shape.outer4 : shape.outer6;
}

/** Streams our routes, as far as they lead to the device, and those of others in the main table. Throws NetlinkError. */
export async function dumpRoutes(
  socket: NetlinkSocket,
  shape: RouteShape,
  visit: { readonly own: (route: KernelRoute) => void; readonly foreign?: (route: RouteFacts) => void },
): Promise<{ interrupted: boolean }> {
  const body = Buffer.alloc(ROUTE_HEADER);
  return socket.dump({ type: RTM.getRoute, body, operation: 'list routes', timeoutMs: 30_000 }, (message) => {
    if (message.type !== RTM.newRoute) return;
    const route = parseRoute(message.body, shape);
    if (route !== undefined) visit.own(route);
    else if (visit.foreign !== undefined) {
      const facts = routeFacts(message.body);
      if (facts !== undefined) visit.foreign(facts);
    }
  });
}

/** The destination and what tells whose it is, of any unicast route of the main table. */
export interface RouteFacts {
  readonly prefix: Prefix;
  readonly protocol: number;
  readonly metric: number;
  readonly device: number;
}

export function routeFacts(body: Buffer): RouteFacts | undefined {
  const family = familyOf(body[0]);
  if (family === undefined || body.length < ROUTE_HEADER || body[4] !== RT_TABLE_MAIN) return undefined;
  let words: Words | undefined = family === 4 ? [0] : [0, 0, 0, 0];
  let metric = 0;
  let device = 0;
  forEachAttribute(body, { offset: ROUTE_HEADER, end: body.length }, (type, start, length) => {
    if (type === RTA.dst) words = addressOfBytes(family, body.subarray(start, start + length))?.words;
    else if (type === RTA.priority && length >= 4) metric = body.readUInt32LE(start);
    else if (type === RTA.oif && length >= 4) device = body.readUInt32LE(start);
  });
  if (words === undefined) return undefined;
  return { prefix: { family, words, bits: body[1] as number }, protocol: body[5] as number, metric, device };
}

/** Undefined for a route that is not ours. One of ours that cannot be understood has an unspecified tunnel endpoint. */
export function parseRoute(body: Buffer, shape: RouteShape): KernelRoute | undefined {
  if (body.length < ROUTE_HEADER || body[5] !== PROTOCOL || body[7] !== RTN_UNICAST) return undefined;
  const facts = routeFacts(body);
  if (facts === undefined || facts.device !== shape.device) return undefined;
  let encap: Encap | undefined;
  let encapType = 0;
  let source: Address | undefined;
  const { family } = facts.prefix;
  forEachAttribute(body, { offset: ROUTE_HEADER, end: body.length }, (type, start, length) => {
    if (type === RTA.preferredSource) source = addressOfBytes(family, body.subarray(start, start + length));
    else if (type === RTA.encapType && length >= 2) encapType = body.readUInt16LE(start);
    else if (type === RTA.encap) encap = parseEncap(body, start, length);
  });
  const outerFamily = encapType === ENCAP_IP ? 4 : encapType === ENCAP_IP6 ? 6 : undefined;
  const unknown: Address = { family: 4, words: [0] };
  if (encap === undefined || outerFamily === undefined) return { ...facts, via: unknown, right: false };
  const via = addressOfBytes(outerFamily, encap.destination) ?? unknown;
  const right =
    encap.id === shape.identity &&
    (outerFamily === 4 || (encap.flags & CHECKSUM) !== 0) &&
    same(source, sourceOf(shape, family)) &&
    sameOuter(addressOfBytes(outerFamily, encap.source), outerOf(shape, outerFamily));
  return { ...facts, via, right };
}

interface Encap {
  id: number;
  destination: Buffer;
  source: Buffer;
  flags: number;
}

function parseEncap(body: Buffer, offset: number, size: number): Encap {
  const encap: Encap = { id: -1, destination: Buffer.alloc(0), source: Buffer.alloc(0), flags: 0 };
  forEachAttribute(body, { offset, end: offset + size }, (type, start, length) => {
    const value = body.subarray(start, start + length);
    if (type === ENCAP.id && length >= 8) encap.id = Number(value.readBigUInt64BE());
    else if (type === ENCAP.destination) encap.destination = value;
    else if (type === ENCAP.source) encap.source = value;
    else if (type === ENCAP.flags && length >= 2) encap.flags = value.readUInt16BE();
  });
  return encap;
}

function same(a: Address | undefined, b: Address | undefined): boolean {
  return a === undefined || b === undefined ? a === b : a.words.every((word, index) => word === b.words[index]);
}

/** The kernel tells an outer source that was left to it as zeros. */
function sameOuter(kernel: Address | undefined, wanted: Address | undefined): boolean {
  return same(kernel?.words.some((word) => word !== 0) === true ? kernel : undefined, wanted);
}

/** Told when the kernel refuses a route; a route that is already gone when it is to be removed is no refusal. */
export type RefusalListener = (route: RouteChange, error: NetlinkError) => void;

export interface RouteChange {
  readonly prefix: Prefix;
  /** Undefined to remove it. */
  readonly via: Address | undefined;
  readonly metric: number;
  /** Whether the kernel has a route of ours with this metric there. Only such a one is ever replaced. */
  readonly held: boolean;
}

const CHUNK = { first: 128, least: 32, most: 1024 } as const;
/** The kernel works while it takes a batch, and the event loop with it. */
const CHUNK_MS = 6;

/** Writes route changes in batches that keep the event loop free. */
export class RouteBatch {
  readonly #socket: NetlinkSocket;
  readonly #shape: RouteShape;
  readonly #onRefused: RefusalListener;
  readonly #writer = new AttributeWriter(1 << 16);
  readonly #changes: RouteChange[] = [];
  readonly #headers: number[] = [];
  #chunk: number = CHUNK.first;
  added = 0;
  removed = 0;

  constructor(socket: NetlinkSocket, shape: RouteShape, onRefused: RefusalListener) {
    this.#socket = socket;
    this.#shape = shape;
    this.#onRefused = onRefused;
  }

  /** Whether it is time to `flush`. */
  get full(): boolean {
    return this.#changes.length >= this.#chunk;
  }

  put(change: RouteChange): void {
    const writer = this.#writer;
    const remove = change.via === undefined;
    const how = remove ? 0 : NLM_F_CREATE | (change.held ? NLM_F_REPLACE : NLM_F_EXCL);
    const type = remove ? RTM.delRoute : RTM.newRoute;
    // Numbered when it is sent: the numbers of a batch must follow on each other.
    const header = writer.beginMessage({ type, flags: NLM_F_REQUEST | how, seq: 0 });
    this.#body(change);
    writer.endMessage(header);
    this.#headers.push(header);
    this.#changes.push(change);
    if (remove) this.removed++;
    else this.added++;
  }

  #body(change: RouteChange): void {
    const writer = this.#writer;
    const { prefix, via, metric } = change;
    const family = prefix.family === 4 ? AF_INET : AF_INET6;
    const scope = via === undefined ? SCOPE.nowhere : prefix.family === 4 ? SCOPE.link : SCOPE.universe;
    writer.raw(Uint8Array.of(family, prefix.bits, 0, 0, RT_TABLE_MAIN, PROTOCOL, scope, RTN_UNICAST, 0, 0, 0, 0));
    writer.wordsBe(RTA.dst, prefix.words);
    writer.u32(RTA.oif, this.#shape.device);
    writer.u32(RTA.priority, metric);
    if (via === undefined) return;
    const source = sourceOf(this.#shape, prefix.family);
    if (source !== undefined) writer.wordsBe(RTA.preferredSource, source.words);
    writer.u16(RTA.encapType, via.family === 4 ? ENCAP_IP : ENCAP_IP6);
    const encap = writer.begin(RTA.encap | NESTED);
    writer.u64be(ENCAP.id, BigInt(this.#shape.identity));
    writer.wordsBe(ENCAP.destination, via.words);
    const outer = outerOf(this.#shape, via.family);
    if (outer !== undefined) writer.wordsBe(ENCAP.source, outer.words);
    if (via.family === 6) writer.u16be(ENCAP.flags, CHECKSUM);
    writer.end(encap);
  }

  /** Sends what was put. Throws NetlinkError when nothing is known of the outcome. */
  async flush(): Promise<void> {
    if (this.#changes.length === 0) return;
    const changes = this.#changes.splice(0);
    const headers = this.#headers.splice(0);
    const data = Buffer.from(this.#writer.bytes());
    this.#writer.reset();
    const firstSeq = this.#socket.takeSeq(changes.length);
    for (const [index, at] of headers.entries()) data.writeUInt32LE(firstSeq + index, at + 8);
    const lastSeq = firstSeq + changes.length - 1;
    const lastFlags = (headers.at(-1) as number) + 6;
    data.writeUInt16LE(data.readUInt16LE(lastFlags) | NLM_F_ACK, lastFlags);
    const start = performance.now();
    const answer = this.#socket.batch({
      data,
      lastSeq,
      operation: 'write routes of the overlay',
      timeoutMs: 30_000,
      onRefused: (error) => this.#refused(changes[error.seq - firstSeq], error),
    });
    const took = performance.now() - start;
    if (took > CHUNK_MS * 1.5) this.#chunk = Math.max(CHUNK.least, this.#chunk >> 1);
    else if (took < CHUNK_MS / 2 && changes.length === this.#chunk)
      this.#chunk = Math.min(CHUNK.most, this.#chunk << 1);
    await answer;
  }

  #refused(change: RouteChange | undefined, error: NetlinkError): void {
    if (change === undefined) return;
    if (change.via !== undefined) this.added--;
    else if (error.errnoName === 'ESRCH' || error.errnoName === 'ENOENT') return;
    else this.removed--;
    this.#onRefused(change, error);
  }
}

export function describeRoute(change: RouteChange): string {
  const to = change.via === undefined ? '' : ` via ${formatAddress(change.via)}`;
  return `${formatPrefix(change.prefix)}${to}`;
}
