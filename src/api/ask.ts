import { type IncomingMessage, request as sendRequest } from 'node:http';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { readLines } from './read-lines.ts';

export interface AskOptions {
  readonly socket: string;
  /** For the other side to say something, milliseconds; 10 s by default. */
  readonly silenceMs?: number;
  /** Ends a list early, without an error. */
  readonly signal?: AbortSignal;
  /** Who answers there, for messages; `agent` by default. */
  readonly whom?: 'agent' | 'hub';
}

/** A request that changes something. */
export interface Change {
  readonly method: 'POST' | 'PUT' | 'DELETE';
  /** Sent as JSON. */
  readonly body?: unknown;
}

const SILENCE_MS = 10_000;
const SILENT = 'it stays silent';
const MAX_RECORD_BYTES = 64 << 20;

/** One record from a local socket; undefined when the answer is empty. Throws MeshError. */
export async function askRecord<T>(options: AskOptions, path: string, change?: Change): Promise<T> {
  const response = await request(options, path, change);
  const text = await body(response, options);
  return (text === '' ? undefined : JSON.parse(text)) as T;
}

/** A list, read while it comes. Throws MeshError. */
export async function* askList<T>(options: AskOptions, path: string): AsyncGenerator<T> {
  const response = await request(options, path);
  const { signal } = options;
  const leave = (): void => void response.destroy();
  signal?.addEventListener('abort', leave, { once: true });
  try {
    for await (const line of readLines(patiently(response, options), MAX_RECORD_BYTES)) yield JSON.parse(line) as T;
  } catch (cause) {
    if (signal?.aborted === true) return;
    throw new MeshError('API-FAILED', `the list ends in the middle: ${messageOf(cause)}`, {
      place: options.socket,
      cause,
    });
  } finally {
    signal?.removeEventListener('abort', leave);
    response.destroy();
  }
}

/** The answer's body is still to be read; an error of the other side is thrown. */
async function request(options: AskOptions, path: string, change?: Change): Promise<IncomingMessage> {
  const { method, body: content } = change ?? { method: 'GET', body: undefined };
  const text = content === undefined ? undefined : JSON.stringify(content);
  const headers =
    text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const sent = sendRequest({ socketPath: options.socket, path, method, headers, agent: false }, resolve);
    const timer = setTimeout(() => sent.destroy(new Error(SILENT)), options.silenceMs ?? SILENCE_MS);
    sent.on('close', () => clearTimeout(timer));
    sent.on('response', () => clearTimeout(timer));
    sent.on('error', (cause) => reject(connectionError(cause, options)));
    sent.end(text);
  });
  if (response.statusCode === 200 || response.statusCode === 204) return response;
  throw answeredError(await body(response, options), response.statusCode ?? 0);
}

async function body(response: IncomingMessage, options: AskOptions): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of patiently(response, options)) {
      length += chunk.length;
      if (length > MAX_RECORD_BYTES) throw new Error('the answer is too long');
      chunks.push(chunk);
    }
  } catch (cause) {
    throw connectionError(cause, options);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Limits the time that we wait for the other side, not the time that our own reader takes. */
async function* patiently(response: IncomingMessage, options: AskOptions): AsyncGenerator<Buffer> {
  const chunks = (response as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  for (;;) {
    const timer = setTimeout(() => response.destroy(new Error(SILENT)), options.silenceMs ?? SILENCE_MS);
    try {
      const next = await chunks.next();
      if (next.done === true) return;
      clearTimeout(timer);
      yield next.value;
    } finally {
      clearTimeout(timer);
    }
  }
}

function connectionError(cause: unknown, { socket, whom = 'agent' }: AskOptions): MeshError {
  const code = (cause as NodeJS.ErrnoException).code;
  if (code === 'EACCES' || code === 'EPERM') return new MeshError('API-DENIED', '', { place: socket, cause });
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: `there is no such socket: the ${whom} does not run, or uses another one`,
    ECONNREFUSED: `nobody listens: the ${whom} does not run`,
    ECONNRESET: 'the connection was cut',
    ENOTSOCK: 'it is no socket',
  };
  const detail = reasons[code ?? ''] ?? messageOf(cause);
  return new MeshError(whom === 'hub' ? 'HUB-UNREACHABLE' : 'API-UNREACHABLE', detail, { place: socket, cause });
}

/** Gives the other side's error its code again, when this version of the program knows it. */
function answeredError(text: string, status: number): MeshError {
  let record: { code?: unknown; message?: unknown; place?: unknown };
  try {
    record = JSON.parse(text) as typeof record;
  } catch {
    return new MeshError('API-FAILED', `status ${status} without a reason`);
  }
  const message = typeof record.message === 'string' ? record.message : '';
  const place = typeof record.place === 'string' ? { place: record.place } : {};
  const { code } = record;
  if (typeof code !== 'string' || !Object.hasOwn(ERROR_CODES, code)) {
    return new MeshError('API-FAILED', `${message} (${String(code)})`, place);
  }
  const { summary } = ERROR_CODES[code as ErrorCode];
  const detail = message.startsWith(summary) ? message.slice(summary.length).replace(/^: /, '') : message;
  return new MeshError(code as ErrorCode, detail, place);
}
