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
}

const LIMITS: DnsServerLimits = { connections: 64, idleMs: 10_000, lifeMs: 120_000 };
/** No query that we understand is longer; a name, a question and some options. */
const MAX_QUERY = 2048;
/** Answers that a connection has not taken yet, bytes. */
const MAX_BACKLOG = 256 << 10;

/**
 * DNS over UDP and TCP (RFC 7766) on one loopback address. Who is not on this machine gets nothing, even where the kernel lets
 * packets to loopback addresses in (`route_localnet`).
 */
export class DnsServer {
  readonly #options: DnsServerOptions;
  readonly #limits: DnsServerLimits;
  readonly #bucket: TokenBucket;
  readonly #udp: UdpSocket;
  readonly #tcp: Server;
  /** In the order of their last query. */
  readonly #connections = new Set<Socket>();

  private constructor(options: DnsServerOptions) {
    this.#options = options;
    this.#limits = { ...LIMITS, ...options.limits };
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
    const refused = !isLocal(from.address) ? 'foreign' : this.#bucket.take() ? undefined : 'limited';
    if (refused !== undefined) responder.count(refused);
    const reply = refused === undefined ? responder.respond(data, 'udp') : undefined;
    if (reply !== undefined) this.#udp.send(reply, from.port, from.address, () => undefined);
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
    socket.on('data', (data: Buffer) => {
      pending = this.#stream(socket, pending.length === 0 ? data : Buffer.concat([pending, data]));
    });
  }

  /** Answers every whole message. @returns what is left */
  #stream(socket: Socket, data: Buffer): Buffer {
    let rest = data;
    while (rest.length >= 2 && !socket.destroyed) {
      const end = 2 + rest.readUInt16BE(0);
      if (end > 2 + MAX_QUERY) this.#cut(socket, 'nonsense');
      if (rest.length < end) break;
      this.#message(socket, rest.subarray(2, end));
      rest = rest.subarray(end);
    }
    return rest;
  }

  #message(socket: Socket, message: Buffer): void {
    if (!this.#bucket.take()) {
      this.#cut(socket, 'limited');
      return;
    }
    this.#connections.delete(socket);
    this.#connections.add(socket);
    const reply = this.#options.responder.respond(message, 'tcp');
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
