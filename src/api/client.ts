import { get, type IncomingMessage } from 'node:http';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { readLines } from './read-lines.ts';
import type {
  EndpointFilter,
  EndpointRecord,
  IdentityRecord,
  IpcacheRecord,
  KernelAddressRecord,
  KernelPolicyRecord,
  NodeRecord,
  PolicyDetail,
  PolicyRecord,
  ServiceRecord,
  StatusRecord,
} from './types.ts';

/** Fields that the agent compares before it sends a record. */
export interface ListFilter {
  readonly cluster?: string;
  readonly source?: string;
  readonly namespace?: string;
  readonly name?: string;
  readonly direction?: string;
  readonly selector?: string;
}

/**
 * Asks a running agent. Lists are read while they come and never held whole. Every call may throw MeshError:
 * API-UNREACHABLE, API-DENIED, or what the agent answered.
 */
export interface AgentClient {
  status(): Promise<StatusRecord>;
  endpoints(filter: EndpointFilter): AsyncIterable<EndpointRecord>;
  identities(filter?: ListFilter): AsyncIterable<IdentityRecord>;
  identity(id: string): Promise<IdentityRecord>;
  nodes(filter?: ListFilter): AsyncIterable<NodeRecord>;
  services(filter?: ListFilter): AsyncIterable<ServiceRecord>;
  ipcache(filter?: ListFilter): AsyncIterable<IpcacheRecord>;
  ipcacheGet(address: string): Promise<IpcacheRecord>;
  policies(filter?: ListFilter): AsyncIterable<PolicyRecord>;
  policy(name: string): Promise<PolicyDetail>;
  kernelIpcache(filter?: ListFilter): AsyncIterable<KernelAddressRecord>;
  kernelPolicy(filter?: ListFilter): AsyncIterable<KernelPolicyRecord>;
}

export interface ClientOptions {
  readonly socket: string;
  /** For the agent to say something, milliseconds; 10 s by default. */
  readonly silenceMs?: number;
}

const SILENCE_MS = 10_000;
const SILENT = 'it stays silent';
const MAX_RECORD_BYTES = 64 << 20;

export function openClient(options: ClientOptions): AgentClient {
  const list = <T>(path: string, query: object = {}): AsyncIterable<T> =>
    requestList<T>(options, withQuery(path, query));
  const record = <T>(path: string): Promise<T> => requestRecord<T>(options, path);
  return {
    status: () => record('/v1/status'),
    endpoints: ({ all, ...filter }) => list('/v1/endpoints', { ...filter, ...(all && { all: '1' }) }),
    identities: (filter) => list('/v1/identities', filter),
    identity: (id) => record(`/v1/identities/${encodeURIComponent(id)}`),
    nodes: (filter) => list('/v1/nodes', filter),
    services: (filter) => list('/v1/services', filter),
    ipcache: (filter) => list('/v1/ipcache', filter),
    ipcacheGet: (address) => record(`/v1/ipcache/${encodeURIComponent(address)}`),
    policies: (filter) => list('/v1/policies', filter),
    policy: (name) => record(`/v1/policies/${encodeURIComponent(name)}`),
    kernelIpcache: (filter) => list('/v1/kernel/ipcache', filter),
    kernelPolicy: (filter) => list('/v1/kernel/policy', filter),
  };
}

function withQuery(path: string, query: object): string {
  const given = Object.entries(query).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  return given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
}

async function requestRecord<T>(options: ClientOptions, path: string): Promise<T> {
  const response = await request(options, path);
  return JSON.parse(await body(response, options)) as T;
}

async function* requestList<T>(options: ClientOptions, path: string): AsyncGenerator<T> {
  const response = await request(options, path);
  try {
    for await (const line of readLines(patiently(response, options), MAX_RECORD_BYTES)) yield JSON.parse(line) as T;
  } catch (cause) {
    throw new MeshError('API-FAILED', `the list ends in the middle: ${messageOf(cause)}`, {
      place: options.socket,
      cause,
    });
  } finally {
    response.destroy();
  }
}

/** The answer's body is still to be read; an error of the agent is thrown. */
async function request(options: ClientOptions, path: string): Promise<IncomingMessage> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const sent = get({ socketPath: options.socket, path, agent: false }, resolve);
    const timer = setTimeout(() => sent.destroy(new Error(SILENT)), options.silenceMs ?? SILENCE_MS);
    sent.on('close', () => clearTimeout(timer));
    sent.on('response', () => clearTimeout(timer));
    sent.on('error', (cause) => reject(connectionError(cause, options.socket)));
  });
  if (response.statusCode === 200) return response;
  throw agentError(await body(response, options), response.statusCode ?? 0);
}

async function body(response: IncomingMessage, options: ClientOptions): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of patiently(response, options)) {
      length += chunk.length;
      if (length > MAX_RECORD_BYTES) throw new Error('the answer is too long');
      chunks.push(chunk);
    }
  } catch (cause) {
    throw connectionError(cause, options.socket);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Limits the time that we wait for the agent, not the time that our own reader takes. */
async function* patiently(response: IncomingMessage, options: ClientOptions): AsyncGenerator<Buffer> {
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

function connectionError(cause: unknown, socket: string): MeshError {
  const code = (cause as NodeJS.ErrnoException).code;
  if (code === 'EACCES' || code === 'EPERM') return new MeshError('API-DENIED', '', { place: socket, cause });
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: 'there is no such socket: the agent does not run, or uses another one',
    ECONNREFUSED: 'nobody listens: the agent does not run',
    ECONNRESET: 'the connection was cut',
    ENOTSOCK: 'it is no socket',
  };
  const detail = reasons[code ?? ''] ?? messageOf(cause);
  return new MeshError('API-UNREACHABLE', detail, { place: socket, cause });
}

/** Gives the agent's error its code again, when this version of the program knows it. */
function agentError(text: string, status: number): MeshError {
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
