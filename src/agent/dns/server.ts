import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type Server, type Socket } from 'node:net';
import { TokenBucket } from '../../core/token-bucket.ts';
import type { Responder } from './responder.ts';

export interface DnsServerOptions {
  /** A loopback address. */
  readonly host: string;
  readonly port: number;
  readonly responder: Responder;
  /** Queries; more are dropped, and their connections closed. */
  readonly perSecond: number;
  readonly limits?: Partial<DnsServerLimits>;
}

export interface DnsServerLimits {
  /** Connections over TCP: one more puts out the one that was silent for the longest. */
  readonly connections: number;
  readonly idleMs: number;
  /** Of a connection, however busy. */
  readonly lifeMs: number;
  /**
   * Milliseconds of computing, in each second, that answers may take: a question for a service of a thousand backends costs a
   * hundred times as much as others, anybody on this machine may ask, and the agent has other things to do.
   */
  readonly workMs: number;
}

const LIMITS: DnsServerLimits = { connections: 64, idleMs: 10_000, lifeMs: 120_000, workMs: 400 };
/** No query that we understand is longer; a name, a question and some options. */
const MAX_QUERY = 2048;
/** Answers that a connection has not taken yet, bytes. */
const MAX_BACKLOG = 256 << 10;
/** Others get their turn after a connection had so much of it. */
const TURN_MS = 5;

/**
 * DNS over UDP and TCP (RFC 7766) on one loopback address. Who is not on this machine gets nothing, even where the kernel lets
 * packets to loopback addresses in (`route_localnet`).
 */
export class DnsServer {
  readonly #options: DnsServerOptions;
  readonly #limits: DnsServerLimits;
  readonly #bucket: TokenBucket;
  readonly #work: TokenBucket;
  readonly #udp: UdpSocket;
  readonly #tcp: Server;
  /** In the order of their last query. */
  readonly #connections = new Set<Socket>();

  private constructor(options: DnsServerOptions) {
    this.#options = options;
    this.#limits = { ...LIMITS, ...options.limits };
    const { workMs } = this.#limits;
    this.#work = new TokenBucket({ burst: workMs / 8, perSecond: workMs });
    this.#bucket = new TokenBucket({ burst: options.perSecond, perSecond: options.perSecond });
    this.#udp = createSocket({ type: options.host.includes(':') ? 'udp6' : 'udp4' });
    this.#udp.on('message', (data, from) => this.#datagram(data, from));
    this.#tcp = createServer({ noDelay: true }, (socket) => this.#connected(socket));
  }

  /** Rejects with the error of the system when the address cannot be had. */
  static async open(options: DnsServerOptions): Promise<DnsServer> {
    const server = new DnsServer(options);
    try {
      await server.#bind();
      return server;
    } catch (error) {
      await server.close();
      throw error;
    }
  }

  async #bind(): Promise<void> {
    const { host, port } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#udp.once('error', reject);
      this.#udp.bind({ address: host, port, exclusive: true }, () => resolve());
    });
    await new Promise<void>((resolve, reject) => {
      this.#tcp.once('error', reject);
      this.#tcp.listen({ host, port, exclusive: true }, () => resolve());
    });
    // Errors of single datagrams, or of a connection that nobody waited for.
    for (const socket of [this.#udp, this.#tcp]) socket.removeAllListeners('error').on('error', () => undefined);
  }

  async close(): Promise<void> {
    for (const socket of this.#connections) socket.destroy();
    await Promise.all([
      new Promise<void>((resolve) => this.#udp.close(() => resolve())),
      new Promise<void>((resolve) => this.#tcp.close(() => resolve())),
    ]);
  }

  #datagram(data: Buffer, from: RemoteInfo): void {
    const { responder } = this.#options;
    const refused = !isLocal(from.address) ? 'foreign' : this.#admit() ? undefined : 'limited';
    if (refused !== undefined) responder.count(refused);
    const reply = refused === undefined ? this.#respond(data, 'udp') : undefined;
    if (reply !== undefined) this.#udp.send(reply, from.port, from.address, () => undefined);
  }

  #admit(): boolean {
    return !this.#work.empty && this.#bucket.take();
  }

  /** At the cost of what it really took: a machine that is busy with others makes no question dearer. */
  #respond(data: Buffer, transport: 'udp' | 'tcp'): Buffer | undefined {
    const before = process.threadCpuUsage();
    const reply = this.#options.responder.respond(data, transport);
    const { user, system } = process.threadCpuUsage(before);
    this.#work.spend((user + system) / 1000);
    return reply;
  }

  #connected(socket: Socket): void {
    const { responder } = this.#options;
    if (!isLocal(socket.remoteAddress ?? '')) {
      responder.count('foreign');
      socket.destroy();
      return;
    }
    for (const oldest of this.#connections) {
      if (this.#connections.size < this.#limits.connections) break;
      this.#connections.delete(oldest);
      oldest.destroy();
    }
    this.#connections.add(socket);
    const life = setTimeout(() => socket.destroy(), this.#limits.lifeMs).unref();
    socket.setTimeout(this.#limits.idleMs, () => socket.destroy());
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(life);
      this.#connections.delete(socket);
    });
    let pending: Buffer = Buffer.alloc(0);
    const turn = (data: Buffer): void => {
      const { rest, more } = this.#stream(socket, data);
      pending = rest;
      if (!more) return;
      // Nothing new is read meanwhile.
      socket.pause();
      setImmediate(() => {
        if (socket.destroyed) return;
        socket.resume();
        turn(pending);
      });
    };
    socket.on('data', (data: Buffer) => turn(pending.length === 0 ? data : Buffer.concat([pending, data])));
  }

  /** Answers whole messages. @returns what is left, and whether there are more of them in it */
  #stream(socket: Socket, data: Buffer): { readonly rest: Buffer; readonly more: boolean } {
    const end = performance.now() + TURN_MS;
    let rest = data;
    while (rest.length >= 2 && !socket.destroyed) {
      const length = rest.readUInt16BE(0);
      if (length > MAX_QUERY) {
        this.#cut(socket, 'nonsense');
        break;
      }
      if (rest.length < 2 + length) break;
      if (performance.now() > end) return { rest, more: true };
      this.#message(socket, rest.subarray(2, 2 + length));
      rest = rest.subarray(2 + length);
    }
    return { rest, more: false };
  }

  #message(socket: Socket, message: Buffer): void {
    if (!this.#admit()) {
      this.#cut(socket, 'limited');
      return;
    }
    this.#connections.delete(socket);
    this.#connections.add(socket);
    const reply = this.#respond(message, 'tcp');
    // Whoever sends what is no query at all gets no second try.
    if (reply === undefined || socket.writableLength > MAX_BACKLOG) {
      socket.destroy();
      return;
    }
    const length = Buffer.alloc(2);
    length.writeUInt16BE(reply.length);
    socket.write(Buffer.concat([length, reply]));
  }

  #cut(socket: Socket, outcome: 'nonsense' | 'limited'): void {
    this.#options.responder.count(outcome);
    socket.destroy();
  }
}

function isLocal(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}
