import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { type Log, silentLog } from '../observe/log.ts';
import { type Answer, answerRequest } from './routes.ts';
import { bindSocket } from './socket-file.ts';
import { streamEvents } from './stream-events.ts';
import { streamList } from './stream-list.ts';
import { type AgentApi, API_VERSION, type ErrorRecord } from './types.ts';

export interface ApiServerOptions extends SocketServerOptions {
  readonly api: AgentApi;
}

export interface SocketServerOptions {
  readonly socket: string;
  readonly group?: string;
  readonly log?: Log;
  /** For tests; the defaults are right for an agent. */
  readonly limits?: Partial<ApiLimits>;
}

export interface ApiRequest {
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  /** Empty without one. */
  readonly body: Buffer;
}

/** Answers one request. Throws MeshError. */
export type Answerer = (request: ApiRequest) => Answer | Promise<Answer>;

export interface ApiLimits {
  /** Connections at once. One more puts out the oldest that has not asked anything yet, or takes nothing. */
  readonly clients: number;
  /** A request must be complete after so long. */
  readonly requestMs: number;
  /** A reader that takes nothing for so long is put out; a pager may wait for a person. */
  readonly stallMs: number;
  /** The same for one who follows events: what he does not take is lost for him anyway. */
  readonly streamStallMs: number;
  /** Bytes of a body. Whoever reads only takes none. */
  readonly bodyBytes: number;
}

export interface ApiServer {
  close(): Promise<void>;
}

const LIMITS: ApiLimits = { clients: 64, requestMs: 5000, stallMs: 900_000, streamStallMs: 60_000, bodyBytes: 0 };
const MAX_HEADER_BYTES = 16 << 10;

/** Room for policies; a Kubernetes object has at most so much. */
const AGENT_BODY_BYTES = 1 << 20;

/**
 * Serves the API of an agent. A socket that is shared with a group takes no changes: who may look must not
 * thereby be able to open the firewall. @throws MeshError API-BUSY, API-SOCKET
 */
export function serveApi({ api, ...options }: ApiServerOptions): Promise<ApiServer> {
  const readOnly = options.group !== undefined;
  const limits = { bodyBytes: AGENT_BODY_BYTES, ...options.limits };
  return serveSocket({ ...options, limits }, (request) => answerRequest(api, request, { readOnly }));
}

/**
 * Serves a local API: HTTP/1.1 on a Unix socket, one request per connection. Lists are JSON records, one a line.
 * @throws MeshError API-BUSY, API-SOCKET
 */
export async function serveSocket(options: SocketServerOptions, answer: Answerer): Promise<ApiServer> {
  const limits = { ...LIMITS, ...options.limits };
  const log = options.log ?? silentLog;
  const server = createServer({
    requestTimeout: limits.requestMs,
    headersTimeout: limits.requestMs,
    connectionsCheckingInterval: Math.min(1000, limits.requestMs),
    maxHeaderSize: MAX_HEADER_BYTES,
    keepAlive: false,
  });
  const connections = new Connections(limits.clients);
  server.on('connection', (socket) => connections.admit(socket));
  server.on('clientError', (_error, socket) => socket.destroy());
  server.on('request', (request, response) => {
    connections.serve(request.socket);
    // What a client sends beyond its request is not wanted, and never read.
    response.setHeader('connection', 'close');
    respond({ answer, request, response, limits }).catch((error: unknown) => {
      log.debug('a client of the socket was put out', { reason: messageOf(error) });
      request.socket.destroy();
    });
  });
  const remove = await bindSocket(server, {
    path: options.socket,
    ...(options.group !== undefined && { group: options.group }),
  });
  server.on('error', (error) => log.warn('the socket of the agent had a fault', { error }));
  return {
    close: () =>
      new Promise((resolve) => {
        remove();
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Keeps the number of connections small without letting silent or stalled ones shut out an operator. */
class Connections {
  readonly #max: number;
  /** In order of arrival; true once it has asked something. */
  readonly #served = new Map<Socket, boolean>();

  constructor(max: number) {
    this.#max = max;
  }

  admit(socket: Socket): void {
    if (this.#served.size >= this.#max && !this.#makeRoom()) {
      refuse(socket);
      return;
    }
    this.#served.set(socket, false);
    socket.once('close', () => this.#served.delete(socket));
  }

  serve(socket: Socket): void {
    if (this.#served.has(socket)) this.#served.set(socket, true);
  }

  #makeRoom(): boolean {
    const all = [...this.#served];
    const found = all.find(([, served]) => !served) ?? all.find(([socket]) => socket.writableNeedDrain);
    if (found === undefined) return false;
    this.#served.delete(found[0]);
    found[0].destroy();
    return true;
  }
}

function refuse(socket: Socket): void {
  const body = JSON.stringify(errorRecord(new MeshError('API-LIMIT', '')));
  const head = 'HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n';
  socket.end(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`, () => socket.destroy());
}

async function respond(exchange: {
  readonly answer: Answerer;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly limits: ApiLimits;
}): Promise<void> {
  const { request, response, limits } = exchange;
  const { method = '', url: target = '' } = request;
  try {
    const answer = await exchange.answer({ method, target, body: await readBody(request, limits.bodyBytes) });
    if (answer.kind === 'none') return sendNothing(response);
    if (answer.kind === 'record') return sendJson(response, 200, answer.record);
    response.writeHead(200, { 'content-type': 'application/x-ndjson', 'x-api-version': API_VERSION });
    if (answer.kind === 'stream') {
      await streamEvents({ events: answer.events, to: response, stallMs: limits.streamStallMs });
      response.end();
      return;
    }
    await streamList({ records: answer.records, filter: answer.filter, to: response, stallMs: limits.stallMs });
    response.end();
  } catch (error) {
    // Half a list must not look like a whole one.
    if (response.headersSent) throw error;
    const record = errorRecord(error);
    sendJson(response, STATUS_OF[record.code] ?? 500, record);
  }
}

/** The whole body, as far as one may be sent; the time that it may take is limited by the server. */
async function readBody(request: IncomingMessage, max: number): Promise<Buffer> {
  if (max === 0 || request.method === 'GET') return Buffer.alloc(0);
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > max) throw new MeshError('API-REQUEST', `the body has more than ${max} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

const STATUS_OF: Readonly<Partial<Record<ErrorCode, number>>> = {
  'API-REQUEST': 400,
  'API-NOT-FOUND': 404,
  'API-LIMIT': 503,
  'API-READ-ONLY': 403,
};

function sendNothing(response: ServerResponse): void {
  response.writeHead(204, { 'x-api-version': API_VERSION });
  response.end();
}

function sendJson(response: ServerResponse, status: number, record: object): void {
  const body = JSON.stringify(record);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    'x-api-version': API_VERSION,
  });
  response.end(body);
}

function errorRecord(error: unknown): ErrorRecord {
  const code: ErrorCode = error instanceof MeshError ? error.code : 'API-FAILED';
  const place = error instanceof MeshError && error.place !== undefined ? { place: error.place } : {};
  const message = error instanceof MeshError ? error.message : `${ERROR_CODES[code].summary}: ${messageOf(error)}`;
  return { apiVersion: API_VERSION, kind: 'Error', code, message, ...place, remedy: ERROR_CODES[code].remedy };
}
