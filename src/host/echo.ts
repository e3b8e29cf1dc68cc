import { randomBytes, randomInt } from 'node:crypto';
import { MeshError, messageOf } from '../core/errors.ts';
import { type Address, type Family, formatAddress } from '../core/ip.ts';
import { TokenBucket } from '../core/token-bucket.ts';
import { native } from './load-native.ts';
import { NetlinkError } from './netlink-error.ts';

export interface EchoRequest {
  readonly address: Address;
  /** So many are sent, each after a pause, until one is answered. */
  readonly requests: number;
  readonly pauseMs: number;
  /** From the first request on; after it there is no answer. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

/** `rttMs`: of the request that was answered. */
export type EchoOutcome =
  | { readonly rttMs: number }
  | { readonly failure: 'silent' | 'not-sent'; readonly text: string };

interface Waiting {
  readonly from: string;
  readonly nonce: Buffer;
  readonly sentAt: number;
  readonly answered: (rttMs: number) => void;
}

const ECHO = { 4: { request: 8, reply: 0 }, 6: { request: 128, reply: 129 } } as const;
const HEADER = 8;
const NONCE = 16;
const SEQUENCES = 0x1_0000;
/** Room for the answers of hundreds of addresses that come at once, bytes. */
const RECEIVE_BYTES = 1 << 20;
/** Errors of one destination: the socket is fine, and the next request may pass. */
const OF_DESTINATION: ReadonlySet<string> = new Set(['EAGAIN', 'ENOBUFS']);

/** Answers that nobody waits for: some come late or twice, and whoever was asked knows how to make more. */
const STRANGERS = { burst: 1000, perSecond: 100 } as const;

/**
 * Sends ICMP echo requests to any number of addresses of one family, over one socket. An answer counts when address,
 * identifier, sequence number and 16 random bytes are those of a request that is still waiting. A flood of others ends with
 * another identifier: what comes under the former one costs nothing more than the kernel's look at it.
 */
export class EchoSocket {
  readonly #family: Family;
  readonly #strangers = new TokenBucket(STRANGERS);
  readonly #waiting = new Map<number, Waiting>();
  #identifier: number;
  #handle: number | undefined;
  #sequence = randomInt(SEQUENCES);
  #ended = false;
  /** Answers that were heard and that nobody waited for. */
  strangers = 0;

  constructor(family: Family, options: { readonly identifier?: number } = {}) {
    this.#family = family;
    this.#identifier = options.identifier ?? randomInt(1, SEQUENCES);
  }

  /** Throws HST-PERMISSION, HST-NETLINK or HST-NATIVE when echo requests cannot be sent at all. */
  async ask({ address, requests, pauseMs, timeoutMs, signal }: EchoRequest): Promise<EchoOutcome> {
    if (!this.#ended) this.#open();
    const mine: number[] = [];
    const { promise, resolve } = Promise.withResolvers<EchoOutcome>();
    const next = (): void => {
      const failure = this.#send(address, { sent: (sequence) => mine.push(sequence), resolve });
      if (failure !== undefined) resolve(failure);
      else if (mine.length < requests) pause = setTimeout(next, pauseMs);
    };
    let pause: NodeJS.Timeout | undefined;
    const end = setTimeout(() => resolve({ failure: 'silent', text: 'no answer' }), timeoutMs);
    const stop = (): void => resolve({ failure: 'not-sent', text: 'stopped' });
    signal?.addEventListener('abort', stop, { once: true });
    next();
    const outcome = await promise;
    clearTimeout(pause);
    clearTimeout(end);
    signal?.removeEventListener('abort', stop);
    for (const sequence of mine) this.#waiting.delete(sequence);
    return outcome;
  }

  close(): void {
    this.#ended = true;
    this.#leave();
  }

  /** What is under way goes on with the next request. */
  #leave(): void {
    if (this.#handle !== undefined) native().echoClose(this.#handle);
    this.#handle = undefined;
  }

  #open(): number {
    if (this.#handle !== undefined) return this.#handle;
    const module = native();
    if (typeof module.echoOpen !== 'function') throw new MeshError('HST-NATIVE', 'it is older than this program');
    const handle = module.echoOpen(this.#family, this.#identifier, (data) => {
      if (typeof data === 'number') this.#leave();
      else this.#receive(data);
    });
    if (handle < 0) throw new NetlinkError({ errno: -handle, operation: `open an ICMP socket (IPv${this.#family})` });
    module.netlinkBuffers(handle, 0, RECEIVE_BYTES);
    this.#handle = handle;
    return handle;
  }

  #send(
    address: Address,
    to: { sent(sequence: number): void; resolve(outcome: EchoOutcome): void },
  ): EchoOutcome | undefined {
    const handle = this.#reopened();
    if (typeof handle !== 'number') return handle;
    const sequence = this.#nextSequence();
    if (sequence === undefined) return undefined;
    const nonce = randomBytes(NONCE);
    const sentAt = performance.now();
    const from = formatAddress(address);
    this.#waiting.set(sequence, { from, nonce, sentAt, answered: (rttMs) => to.resolve({ rttMs }) });
    to.sent(sequence);
    const result = native().echoSend(handle, addressBytes(address), this.#message(sequence, nonce));
    if (result >= 0) return undefined;
    const error = new NetlinkError({ errno: -result, operation: 'send' });
    return OF_DESTINATION.has(error.errnoName) ? undefined : { failure: 'not-sent', text: error.errnoName };
  }

  /** It may have been left meanwhile. */
  #reopened(): number | EchoOutcome {
    if (this.#ended) return { failure: 'not-sent', text: 'stopped' };
    try {
      return this.#open();
    } catch (error) {
      return { failure: 'not-sent', text: messageOf(error) };
    }
  }

  #nextSequence(): number | undefined {
    for (let tried = 0; tried < SEQUENCES; tried++) {
      this.#sequence = (this.#sequence + 1) % SEQUENCES;
      if (!this.#waiting.has(this.#sequence)) return this.#sequence;
    }
    return undefined;
  }

  #message(sequence: number, nonce: Buffer): Buffer {
    const message = Buffer.alloc(HEADER + NONCE);
    message[0] = ECHO[this.#family].request;
    message.writeUInt16BE(this.#identifier, 4);
    message.writeUInt16BE(sequence, 6);
    nonce.copy(message, HEADER);
    // The kernel fills it in for IPv6, where it covers the addresses.
    if (this.#family === 4) message.writeUInt16BE(checksum(message), 2);
    return message;
  }

  #receive(data: Buffer): void {
    const at = this.#family === 4 ? 4 : 16;
    if (data.length < at + HEADER + NONCE || data[at] !== ECHO[this.#family].reply) return;
    if (data.readUInt16BE(at + 4) !== this.#identifier) return;
    const waiting = this.#waiting.get(data.readUInt16BE(at + 6));
    const fits =
      waiting?.from === formatAddress(addressOf(data.subarray(0, at))) &&
      data.compare(waiting.nonce, 0, NONCE, at + HEADER, at + HEADER + NONCE) === 0;
    if (fits) waiting.answered(performance.now() - waiting.sentAt);
    else this.#stranger();
  }

  #stranger(): void {
    this.strangers++;
    if (this.#strangers.take()) return;
    this.#leave();
    this.#identifier = randomInt(1, SEQUENCES);
  }
}

function addressBytes(address: Address): Buffer {
  const bytes = Buffer.alloc(address.words.length * 4);
  address.words.forEach((word, index) => {
    bytes.writeUInt32BE(word >>> 0, index * 4);
  });
  return bytes;
}

function addressOf(bytes: Buffer): Address {
  const words = Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readUInt32BE(index * 4));
  return { family: bytes.length === 4 ? 4 : 6, words };
}

/** RFC 1071, of an even number of bytes. */
function checksum(message: Buffer): number {
  let sum = 0;
  for (let at = 0; at < message.length; at += 2) sum += message.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
