import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { messageOf } from '../../core/errors.ts';
import { CrowdLimit } from './crowd-limit.ts';

export interface HelloServerOptions {
  readonly port: number;
  /** What cannot be listened on, in words; undefined when all is well. */
  readonly onTrouble: (text: string | undefined) => void;
  /** For tests; milliseconds. */
  readonly retryMs?: number;
  readonly requestMs?: number;
}

/** A node asks about once a minute, and is done in a moment. */
const MAX_CONNECTIONS = 256;
const MAX_FROM_ONE = 8;
const REQUEST_MS = 3000;
const RETRY_MS = 5000;
const MAX_HEADER_BYTES = 4096;

/**
 * Answers the probes of other nodes: `/hello` with 200 and no body, everything else with 404, one request a connection.
 * Listens on the node's own addresses alone, as they come and go. A flood costs a few hundred sockets, each for a few
 * seconds; one source cannot shut out the others.
 */
export class HelloServer {
  readonly #options: HelloServerOptions;
  readonly #crowd = new CrowdLimit({ total: MAX_CONNECTIONS, perSource: MAX_FROM_ONE });
  readonly #servers = new Map<string, Server>();
  readonly #failures = new Map<string, string>();
  #retry: NodeJS.Timeout | undefined;
  #wanted: ReadonlySet<string> = new Set();

  constructor(options: HelloServerOptions) {
    this.#options = options;
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
    server.on('connection', (socket: Socket) => this.#crowd.admit(socket));
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

  /** An address may not be ready yet, a port may be free soon. */
  #again(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      for (const address of this.#wanted) if (!this.#servers.has(address)) this.#begin(address);
    }, this.#options.retryMs ?? RETRY_MS);
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
