import { constants } from 'node:os';
import { Attributes, MESSAGE_HEADER } from './attributes.ts';
import { native } from './load-native.ts';
import { NetlinkError } from './netlink-error.ts';

/** Families. */
export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;
/** Flags of requests; REQUEST and ACK (DUMP for dumps) are added by the methods. */
export const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP = 0x300;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;

const NLMSG_NOOP = 1;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLMSG_OVERRUN = 4;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_CAPPED = 0x100;
const NLM_F_ACK_TLVS = 0x200;
const NLMSGERR_ATTR_MSG = 1;
const SEQ_LIMIT = 0xffffffff;

/** One message without its header. `body` is a view of the datagram and may be kept. */
export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly seq: number;
  /** The port id of the socket that caused an event; 0 when the kernel did. */
  readonly portId: number;
  readonly body: Buffer;
}

/** `body` is what follows the nlmsghdr: the fixed header of the family and its attributes. */
export interface NetlinkRequest {
  readonly type: number;
  readonly flags?: number;
  readonly body: Uint8Array;
  /** In the text of an error: `add route 10.0.0.0/8`. */
  readonly operation?: string;
  /** Time without any reply after which it fails with ETIMEDOUT; 10 s by default. */
  readonly timeoutMs?: number;
}

export interface BatchRequest {
  /** Whole messages with their headers, sent as one datagram. */
  readonly data: Buffer;
  /** The last message that asks for an acknowledgement: its answer ends the batch. */
  readonly lastSeq: number;
  /**
   * For families whose messages stand alone (rtnetlink): told of each message that was refused, while the rest goes on.
   * Without it the first error rejects. Must not throw.
   */
  readonly onRefused?: (error: NetlinkError) => void;
  readonly operation?: string;
  readonly timeoutMs?: number;
}

export interface NetlinkOptions {
  readonly family: number;
  /** Everything that is no answer to a request of this socket. Must not throw. */
  readonly onEvent?: (message: NetlinkMessage) => void;
  /** The receive buffer ran over: events were lost and the listener must look again. Requests in flight fail, ENOBUFS. */
  readonly onLost?: () => void;
  /** Bytes; 64 MiB and 8 MiB by default, both are upper limits and cost nothing until used. */
  readonly sendBuffer?: number;
  readonly receiveBuffer?: number;
}

interface Pending {
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly operation: string;
  readonly dump: boolean;
  readonly onMessage: (message: NetlinkMessage) => void;
  readonly onRefused: ((error: NetlinkError) => void) | undefined;
  readonly settle: (error?: unknown) => void;
  readonly timer: NodeJS.Timeout;
  interrupted: boolean;
  /** Answers so far; the time limit counts from the last one. */
  heard: number;
}

const TIMEOUT_MS = 10_000;

/**
 * A netlink socket for requests, dumps and batches, or for events; keep one socket per purpose, because the kernel gives
 * no sign by which an event that echoes an own request differs from its answer. It keeps the process alive only while
 * something is in flight. Every failure is a NetlinkError.
 */
export class NetlinkSocket {
  /** `NetlinkMessage.portId` of the events that this socket causes on other sockets. */
  readonly portId: number;
  readonly #handle: number;
  readonly #options: NetlinkOptions;
  readonly #pending = new Map<number, Pending>();
  #dumps: Promise<unknown> = Promise.resolve();
  #seq = 0;
  #closed = false;

  constructor(options: NetlinkOptions) {
    this.#options = options;
    this.#handle = native().netlinkOpen(options.family, (data) => this.#receive(data));
    if (this.#handle < 0) throw new NetlinkError({ errno: -this.#handle, operation: 'open netlink socket' });
    this.portId = native().netlinkPortId(this.#handle);
    // A smaller buffer than asked for shows up as ENOBUFS or EMSGSIZE where it matters.
    native().netlinkBuffers(this.#handle, options.sendBuffer ?? 64 << 20, options.receiveBuffer ?? 8 << 20);
  }

  /** Reserves `count` sequence numbers in a row. @returns the first */
  takeSeq(count = 1): number {
    if (this.#seq + count > SEQ_LIMIT) this.#seq = 0;
    const first = this.#seq + 1;
    this.#seq += count;
    return first;
  }

  /** Sends one request and resolves with the bodies of its answers (often none) when the kernel has acknowledged it. */
  async request(request: NetlinkRequest): Promise<Buffer[]> {
    const seq = this.takeSeq();
    const bodies: Buffer[] = [];
    await this.#exchange(encode(request, NLM_F_REQUEST | NLM_F_ACK, seq), {
      request,
      firstSeq: seq,
      lastSeq: seq,
      onMessage: (message) => bodies.push(message.body),
    });
    return bodies;
  }

  /**
   * Streams a dump. Dumps of one socket run one after the other, because the kernel allows only one. An error thrown by
   * `onMessage` fails the dump. `interrupted` means that something changed meanwhile and the listing may be inconsistent:
   * do it again.
   */
  dump(request: NetlinkRequest, onMessage: (message: NetlinkMessage) => void): Promise<{ interrupted: boolean }> {
    const run = async (): Promise<{ interrupted: boolean }> => {
      const seq = this.takeSeq();
      const datagram = encode(request, NLM_F_REQUEST | NLM_F_DUMP, seq);
      return this.#exchange(datagram, { request, firstSeq: seq, lastSeq: seq, onMessage, dump: true });
    };
    const result = this.#dumps.then(run);
    this.#dumps = result.catch(() => undefined);
    return result;
  }

  /**
   * Sends a batch (nfnetlink) in one datagram; number its messages with `takeSeq`. Resolves when `lastSeq` is acknowledged;
   * the first error rejects, and its `seq` tells which message it was.
   */
  async batch(batch: BatchRequest): Promise<void> {
    const firstSeq = batch.data.readUInt32LE(8);
    const { lastSeq, onRefused } = batch;
    await this.#exchange(batch.data, { request: batch, firstSeq, lastSeq, onMessage: () => undefined, onRefused });
  }

  /** Joins a multicast group by number (RTNLGRP_*, NFNLGRP_*). */
  join(group: number): void {
    const result = native().netlinkJoin(this.#handle, group);
    if (result < 0) throw new NetlinkError({ errno: -result, operation: `join netlink group ${group}` });
  }

  /** Whether waiting for events keeps the process alive; not by default. */
  keepAlive(keep: boolean): void {
    native().netlinkRef(this.#handle, keep);
  }

  /** What is in flight fails with ECANCELED. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    native().netlinkClose(this.#handle);
    this.#failAll(constants.errno.ECANCELED);
  }

  #exchange(
    datagram: Buffer,
    exchange: {
      readonly request: { readonly operation?: string; readonly timeoutMs?: number };
      readonly firstSeq: number;
      readonly lastSeq: number;
      readonly onMessage: (message: NetlinkMessage) => void;
      readonly onRefused?: ((error: NetlinkError) => void) | undefined;
      readonly dump?: boolean;
    },
  ): Promise<{ interrupted: boolean }> {
    const { firstSeq, lastSeq, onMessage, request, dump = false } = exchange;
    const operation = request.operation ?? 'netlink request';
    return new Promise((resolve, reject) => {
      const fail = (errno: number): void => reject(new NetlinkError({ errno, seq: firstSeq, operation }));
      if (this.#closed) return fail(constants.errno.ECANCELED);
      const settle = (error?: unknown): void => {
        clearTimeout(pending.timer);
        this.#pending.delete(lastSeq);
        if (this.#pending.size === 0 && !this.#closed) native().netlinkRef(this.#handle, false);
        if (error === undefined) resolve({ interrupted: pending.interrupted });
        else reject(error);
      };
      const timer = setTimeout(() => {
        // Timers come before sockets in a turn of the event loop: look once more before giving up.
        const { heard } = pending;
        setImmediate(() => {
          if (this.#pending.get(lastSeq) === pending && pending.heard === heard) settle(timeout(operation, firstSeq));
        });
      }, request.timeoutMs ?? TIMEOUT_MS);
      const pending: Pending = {
        firstSeq,
        lastSeq,
        operation,
        dump,
        onMessage,
        onRefused: exchange.onRefused,
        settle,
        timer,
        interrupted: false,
        heard: 0,
      };
      if (this.#pending.size === 0) native().netlinkRef(this.#handle, true);
      this.#pending.set(lastSeq, pending);
      const sent = native().netlinkSend(this.#handle, datagram);
      if (sent < 0) settle(new NetlinkError({ errno: -sent, seq: firstSeq, operation }));
    });
  }

  #receive(data: Buffer | number): void {
    if (typeof data === 'number') {
      this.#failAll(-data);
      this.#options.onLost?.();
      return;
    }
    for (let at = 0; at + MESSAGE_HEADER <= data.length; ) {
      const length = data.readUInt32LE(at);
      if (length < MESSAGE_HEADER || at + length > data.length) return;
      this.#dispatch({
        type: data.readUInt16LE(at + 4),
        flags: data.readUInt16LE(at + 6),
        seq: data.readUInt32LE(at + 8),
        portId: data.readUInt32LE(at + 12),
        body: data.subarray(at + MESSAGE_HEADER, at + length),
      });
      at += (length + 3) & ~3;
    }
  }

  #dispatch(message: NetlinkMessage): void {
    if (message.type === NLMSG_NOOP || message.type === NLMSG_OVERRUN) return;
    const pending = this.#find(message);
    if (message.type === NLMSG_ERROR) {
      if (pending !== undefined) acknowledge(pending, message);
      return;
    }
    if (message.type === NLMSG_DONE) {
      if (pending === undefined) return;
      const code = message.body.length >= 4 ? message.body.readInt32LE() : 0;
      if ((message.flags & NLM_F_DUMP_INTR) !== 0) pending.interrupted = true;
      pending.settle(code < 0 ? failure(pending, message, -code) : undefined);
      return;
    }
    if (pending === undefined) {
      this.#options.onEvent?.(message);
      return;
    }
    if ((message.flags & NLM_F_DUMP_INTR) !== 0) pending.interrupted = true;
    noteAnswer(pending);
    try {
      pending.onMessage(message);
    } catch (error) {
      pending.settle(error);
    }
  }

  #find(message: NetlinkMessage): Pending | undefined {
    if (message.seq === 0 || message.portId !== this.portId) return undefined;
    const exact = this.#pending.get(message.seq);
    if (exact !== undefined) return exact;
    for (const pending of this.#pending.values()) {
      if (message.seq >= pending.firstSeq && message.seq <= pending.lastSeq) return pending;
    }
    return undefined;
  }

  #failAll(errno: number): void {
    for (const pending of [...this.#pending.values()]) {
      pending.settle(new NetlinkError({ errno, seq: pending.firstSeq, operation: pending.operation }));
    }
  }
}

function encode(request: NetlinkRequest, flags: number, seq: number): Buffer {
  const datagram = Buffer.alloc(MESSAGE_HEADER + ((request.body.length + 3) & ~3));
  datagram.writeUInt32LE(MESSAGE_HEADER + request.body.length, 0);
  datagram.writeUInt16LE(request.type, 4);
  datagram.writeUInt16LE((request.flags ?? 0) | flags, 6);
  datagram.writeUInt32LE(seq, 8);
  datagram.set(request.body, MESSAGE_HEADER);
  return datagram;
}

/** NLMSG_ERROR: i32 code, the header of the request, and the kernel's words where it has some. */
function acknowledge(pending: Pending, message: NetlinkMessage): void {
  const code = message.body.length >= 4 ? message.body.readInt32LE() : -constants.errno.EPROTO;
  if (code < 0) {
    const error = failure(pending, message, -code);
    if (pending.onRefused === undefined) {
      pending.settle(error);
      return;
    }
    pending.onRefused(error);
  }
  if (message.seq === pending.lastSeq) pending.settle();
  else noteAnswer(pending);
}

function noteAnswer(pending: Pending): void {
  pending.heard++;
  pending.timer.refresh();
}

function failure(pending: Pending, message: NetlinkMessage, errno: number): NetlinkError {
  const detail = kernelWords(message);
  return new NetlinkError({ errno, seq: message.seq, operation: pending.operation, detail });
}

function kernelWords(message: NetlinkMessage): string {
  const { body, flags } = message;
  if ((flags & NLM_F_ACK_TLVS) === 0) return '';
  // In NLMSG_DONE they follow the code; after an error the echo of the request lies before them, cut to its header.
  let offset = 4;
  if (message.type === NLMSG_ERROR) {
    const echoed = (flags & NLM_F_CAPPED) !== 0 || body.length < 8 ? MESSAGE_HEADER : body.readUInt32LE(4);
    offset += (echoed + 3) & ~3;
  }
  return new Attributes(body, offset).string(NLMSGERR_ATTR_MSG) ?? '';
}

function timeout(operation: string, seq: number): NetlinkError {
  return new NetlinkError({ errno: constants.errno.ETIMEDOUT, seq, operation, detail: 'no answer from the kernel' });
}
