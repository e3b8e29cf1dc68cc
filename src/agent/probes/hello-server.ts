import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { messageOf } from '../../core/errors.ts';
import { TokenBucket } from '../../core/token-bucket.ts';
import { CrowdLimit } from './crowd-limit.ts';

export interface HelloServerOptions {
  readonly port: number;
  /** What cannot be listened on, in words; undefined when all is well. */
  readonly onTrouble: (text: string | undefined) => void;
  /** For tests; milliseconds. */
  readonly retryMs?: number;
  readonly requestMs?: number;
  readonly perSecond?: number;
}

/** A node asks about once a minute, and is done in a moment. */
const MAX_CONNECTIONS = 256;
const MAX_FROM_ONE = 8;
/** Connections: ten times of what five thousand nodes open; more cost the agent too much. */
const PER_SECOND = 500;
const REST_MS = 1000;
const REQUEST_MS = 3000;
const RETRY_MS = 5000;
const MAX_HEADER_BYTES = 4096;

/**
 * Answers the probes of other nodes: `/hello` with 200 and no body, everything else with 404, one request a connection.
 * Listens on the node's own addresses alone, as they come and go. A flood costs a few hundred sockets, each for a few
 * seconds; one source cannot shut out the others, unless there are so many connections that the kernel has to refuse them for
 * a while.
 */
export class HelloServer {
  readonly #options: HelloServerOptions;
  readonly #crowd = new CrowdLimit({ total: MAX_CONNECTIONS, perSource: MAX_FROM_ONE });
  readonly #arrivals: TokenBucket;
  readonly #servers = new Map<string, Server>();
  readonly #failures = new Map<string, string>();
  #retry: NodeJS.Timeout | undefined;
  #wanted: ReadonlySet<string> = new Set();

  constructor(options: HelloServerOptions) {
    this.#options = options;
    const { perSecond = PER_SECOND } = options;
    this.#arrivals = new TokenBucket({ burst: 4 * perSecond, perSecond });
  }

  /** Addresses that it answers on at present. */
  get listening(): readonly string[] {
    return [...this.#servers].filter(([, server]) => server.listening).map(([address]) => address);
  }

  /** Own addresses, as text. */
  listenOn(addresses: readonly string[]): void {
    this.#wanted = new Set(addresses);
    for (const [address, server] of this.#servers) if (!this.#wanted.has(address)) this.#end(address, server);
    for (const address of this.#failures.keys()) if (!this.#wanted.has(address)) this.#failures.delete(address);
    for (const address of this.#wanted) if (!this.#servers.has(address)) this.#begin(address);
    this.#tell();
  }

  close(): void {
    clearTimeout(this.#retry);
    this.listenOn([]);
  }

  #begin(address: string): void {
    const requestMs = this.#options.requestMs ?? REQUEST_MS;
    const server = createServer(
      {
        requestTimeout: requestMs,
        headersTimeout: requestMs,
        connectionsCheckingInterval: Math.min(1000, requestMs),
        maxHeaderSize: MAX_HEADER_BYTES,
        keepAlive: false,
      },
      (request, response) => {
        const known = request.method === 'GET' && request.url === '/hello';
        response.writeHead(known ? 200 : 404, { 'content-length': 0, connection: 'close' });
        response.end();
        // What else it wants to say is not read.
        response.once('finish', () => request.socket.destroySoon());
      },
    );
    server.on('connection', (socket: Socket) => {
      if (this.#arrivals.take()) this.#crowd.admit(socket);
      else this.#rest();
    });
    server.on('clientError', (_error, socket) => socket.destroy());
    // Who is connected and says nothing at all is no client of HTTP yet.
    server.setTimeout(requestMs, (socket) => socket.destroy());
    server.on('error', (error) => {
      this.#failures.set(address, messageOf(error));
      this.#end(address, server);
      this.#again();
      this.#tell();
    });
    server.once('listening', () => {
      this.#failures.delete(address);
      this.#tell();
    });
    this.#servers.set(address, server);
    server.listen({ host: address, port: this.#options.port, ipv6Only: true });
  }

  #end(address: string, server: Server): void {
    if (this.#servers.get(address) === server) this.#servers.delete(address);
    server.close();
    server.closeAllConnections();
  }

  /** Nobody is listened to for a while. */
  #rest(): void {
    for (const [address, server] of this.#servers) {
      this.#failures.set(address, 'there are too many connections');
      this.#end(address, server);
    }
    this.#again(REST_MS);
    this.#tell();
  }

  /** An address may not be ready yet, a port may be free soon. */
  #again(afterMs = this.#options.retryMs ?? RETRY_MS): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      for (const address of this.#wanted) if (!this.#servers.has(address)) this.#begin(address);
    }, afterMs);
  }

  #tell(): void {
    const [first] = this.#failures;
    this.#options.onTrouble(
      first === undefined
        ? undefined
        : `probes to ${first[0]} port ${this.#options.port} are not answered: ${first[1]}`,
    );
  }
}
