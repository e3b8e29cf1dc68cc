import { constants } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Socket } from 'node:net';
import { type SecureContextOptions, TLSSocket } from 'node:tls';
import { MeshError, messageOf } from '../../core/errors.ts';
import type { Log } from '../../observe/log.ts';
import { hostAndPort } from '../etcd/arguments.ts';
import { type ConnectionLimits, Connections } from './connections.ts';

export interface EnrolmentServerOptions {
  /** `host:port` */
  readonly listen: string;
  /** Asked for at every start and renewal: PEM of the server's certificate and key, and of the authority that signed it. */
  readonly credentials: () => { readonly certificate: string; readonly key: string; readonly ca: string };
  readonly answer: (request: IncomingMessage, response: ServerResponse) => void;
  readonly log: Log;
  readonly limits?: Partial<EnrolmentLimits>;
}

export interface EnrolmentLimits extends ConnectionLimits {
  /** Milliseconds that a TLS handshake, the header and the whole request may take. */
  readonly handshakeMs: number;
  readonly headersMs: number;
  readonly requestMs: number;
  /** Nothing moves in either direction for so long: the connection ends. */
  readonly silenceMs: number;
}

export const ENROLMENT_LIMITS = { handshakeMs: 5_000, headersMs: 5_000, requestMs: 15_000, silenceMs: 20_000 } as const;
const MAX_HEADER_BYTES = 8 << 10;
const MAX_ASKED_BYTES = 64 << 10;
const KEEP_ALIVE_MS = 5_000;
const CHECK_MS = 1_000;
/** A certificate that was renewed is shown after so long at most. */
const RENEWED_MS = 30_000;

/**
 * The door to the world: HTTPS, at which a client may show a certificate. What takes too long, asks for too much or comes too
 * often is put out before it costs anything. Whether a certificate is good is for whoever answers to decide.
 */
export class EnrolmentServer {
  readonly #options: EnrolmentServerOptions;
  readonly #server: Server;
  readonly #connections: Connections;
  /** The last one of each connection. */
  readonly #answers = new WeakMap<Socket, ServerResponse>();
  #shown = '';
  #timer: NodeJS.Timeout | undefined;

  constructor(options: EnrolmentServerOptions) {
    this.#options = options;
    const limits = { ...ENROLMENT_LIMITS, ...options.limits };
    this.#connections = new Connections(options.limits);
    this.#server = createServer({
      ...this.#context(),
      requestCert: true,
      // Such a request is refused with words, and goes on record.
      rejectUnauthorized: false,
      ALPNProtocols: ['http/1.1'],
      handshakeTimeout: limits.handshakeMs,
      headersTimeout: limits.headersMs,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: CHECK_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
      insecureHTTPParser: false,
    });
    const server = this.#server;
    server.maxHeadersCount = 50;
    server.maxRequestsPerSocket = 100;
    server.timeout = limits.silenceMs;
    server.prependListener('connection', (socket: Socket) => this.#connections.admit(socket));
    server.on('request', (request, response) => {
      // Kept: the request has none any more once it is over.
      const { socket } = request;
      this.#connections.asking(socket, true);
      this.#answers.set(socket, response);
      response.once('close', () => this.#connections.asking(socket, false));
      options.answer(request, response);
    });
    server.on('checkContinue', (request, response) => {
      // Whoever asks before it sends a large body is answered before it does.
      if (Number(request.headers['content-length']) <= MAX_ASKED_BYTES) response.writeContinue();
      server.emit('request', request, response);
    });
    server.on('upgrade', (_request, socket: Socket) => socket.destroy());
    server.on('connect', (_request, socket: Socket) => socket.destroy());
    server.on('tlsClientError', (error, socket) => {
      options.log.debug('a handshake failed', { reason: messageOf(error), address: socket.remoteAddress });
      socket.destroy();
    });
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => this.#malformed(error, socket as Socket));
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Connections that were ended before their handshake. */
  get refused(): number {
    return this.#connections.refused;
  }

  /** @throws MeshError HUB-ENROLMENT */
  async start(): Promise<void> {
    const { listen, log } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const fail = (cause: Error): void =>
        reject(new MeshError('HUB-ENROLMENT', messageOf(cause), { place: listen, cause }));
      this.#server.once('error', fail);
      this.#server.listen({ ...hostAndPort(listen), backlog: 1024 }, () => {
        this.#server.off('error', fail);
        this.#server.on('error', (error) => log.warn('the server for enrolment had a fault', { error }));
        resolve();
      });
    });
    this.#timer = setInterval(() => this.#renew(), RENEWED_MS).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#connections.closeAll();
    });
  }

  #context(): SecureContextOptions {
    const { certificate, key, ca } = this.#options.credentials();
    this.#shown = certificate;
    return {
      // With its authority: a machine that knows only the hash of that one's key finds it here.
      cert: `${certificate.trimEnd()}\n${ca}`,
      key,
      ca,
      minVersion: 'TLSv1.2',
      // A session that is taken up again would skip the look at the certificate.
      secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    };
  }

  #renew(): void {
    try {
      if (this.#options.credentials().certificate !== this.#shown) this.#server.setSecureContext(this.#context());
    } catch (error) {
      this.#options.log.warn('the certificate of the hub cannot be read', { reason: messageOf(error) });
    }
  }

  #malformed(error: NodeJS.ErrnoException, socket: Socket): void {
    this.#options.log.debug('a request was not understood', { reason: error.code, address: socket.remoteAddress });
    // Behind an answer, or within one, there is no place for another.
    const answered = this.#answers.get(socket)?.headersSent === true && this.#answers.get(socket)?.closed === false;
    if (socket.writable && error.code !== 'ECONNRESET' && !answered) {
      const status = error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? '408 Request Timeout' : '400 Bad Request';
      socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`, () => socket.destroy());
    } else socket.destroy();
  }
}

/** DER of the certificate that the other side has shown in the handshake, of whatever authority. */
export function shownCertificate(socket: Socket): Buffer | undefined {
  return socket instanceof TLSSocket ? socket.getPeerX509Certificate()?.raw : undefined;
}
