import { MeshError } from '../core/errors.ts';
import { parseAddress } from '../core/ip.ts';
import { parseFlowQuery } from './flow-query.ts';
import { readApply, readDrain, readExplain } from './read-body.ts';
import { type RecordFilter, recordFilter } from './record-filter.ts';
import type { AgentApi } from './types.ts';

/** What a request is answered with: nothing, one record, a list that may be very long, or what happens from now on. */
export type Answer =
  | { readonly kind: 'none' }
  | { readonly kind: 'record'; readonly record: object }
  /** One event a line, until the end or until the reader leaves. */
  | { readonly kind: 'stream'; events(signal: AbortSignal): AsyncIterable<object> }
  | { readonly kind: 'list'; readonly records: Iterable<object | undefined>; readonly filter: RecordFilter };

type Handler = (api: AgentApi, query: URLSearchParams, name: string) => Answer | Promise<Answer>;

const list = (records: Iterable<object | undefined>, query: URLSearchParams): Answer => ({
  kind: 'list',
  records,
  filter: recordFilter(query),
});

const one = (record: object | undefined, what: string): Answer => {
  if (record === undefined) throw new MeshError('API-NOT-FOUND', what);
  return { kind: 'record', record };
};

const LISTS: Readonly<Record<string, Handler>> = {
  endpoints: (api, query) => {
    const [selector, cluster] = [query.get('selector'), query.get('cluster')];
    const filter = {
      all: query.has('all'),
      ...(selector !== null && { selector }),
      ...(cluster !== null && { cluster }),
    };
    return list(api.endpoints(filter), new URLSearchParams());
  },
  identities: (api, query) => list(api.identities(), query),
  nodes: (api, query) => list(api.nodes(), query),
  health: (api, query) => list(api.nodeHealth(), query),
  services: (api, query) => list(api.services(), query),
  ipcache: (api, query) => list(api.ipcache(), query),
  policies: (api, query) => list(api.policies(), query),
  names: (api, query) => list(api.names(), query),
  'kernel/ipcache': async (api, query) => list(await api.kernelIpcache(), query),
  'kernel/services': async (api, query) => list(await api.kernelServices(), query),
  'kernel/connections': async (api, query) => list(await api.kernelConnections(), query),
  'kernel/policy': async (api, query) => list(await api.kernelPolicy(), query),
};

const ITEMS: Readonly<Record<string, Handler>> = {
  identities: (api, _query, name) => {
    if (!/^[0-9]{1,10}$/.test(name))
      throw new MeshError('API-REQUEST', `${JSON.stringify(name)} is no identity number`);
    return one(api.identity(Number(name)), `identity ${name}`);
  },
  ipcache: (api, _query, name) => {
    if (parseAddress(name) === undefined) throw new MeshError('API-REQUEST', `${JSON.stringify(name)} is no address`);
    return one(api.ipcacheGet(name), `no entry holds ${name}`);
  },
  policies: (api, _query, name) => one(api.policy(name), `policy ${JSON.stringify(name)}`),
};

/** A request to the agent, its body read. */
export interface AgentRequest {
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  readonly body: Buffer;
}

export interface RouteOptions {
  /** Nothing may be changed over this socket. */
  readonly readOnly: boolean;
}

/** Answers `/v1/<list>`, `/v1/<list>/<name>`, `/v1/status`, `/v1/doctor` and `/v1/drain`, explains, takes policies and drains. Throws MeshError. */
export async function answerRequest(api: AgentApi, request: AgentRequest, options: RouteOptions): Promise<Answer> {
  const { method, target } = request;
  const [path = '', search = ''] = splitOnce(target, '?');
  if (!path.startsWith('/v1/')) throw unknown(path);
  const rest = path.slice('/v1/'.length);
  if (method !== 'GET') return answerOther(api, { method, rest, body: request.body }, options);
  const query = new URLSearchParams(search);
  if (rest === 'doctor') return { kind: 'record', record: await api.doctor() };
  if (rest === 'status') return { kind: 'record', record: api.status() };
  if (rest === 'drain') return { kind: 'record', record: await api.drain() };
  if (rest === 'flows') {
    const parsed = parseFlowQuery(Object.fromEntries(query));
    return { kind: 'stream', events: (signal) => api.flows(parsed, signal) };
  }
  if (Object.hasOwn(LISTS, rest)) return (LISTS[rest] as Handler)(api, query, '');
  const [group = '', name = ''] = splitOnce(rest, '/');
  if (name === '' || !Object.hasOwn(ITEMS, group)) throw unknown(path);
  return (ITEMS[group] as Handler)(api, query, decode(name));
}

async function answerOther(
  api: AgentApi,
  { method, rest, body }: { readonly method: string; readonly rest: string; readonly body: Buffer },
  { readOnly }: RouteOptions,
): Promise<Answer> {
  if (method === 'POST' && rest === 'explain') return { kind: 'record', record: await api.explain(readExplain(body)) };
  if (method === 'POST' && rest === 'health') return { kind: 'record', record: api.probeNodes() };
  const [group = '', name = ''] = splitOnce(rest, '/');
  const applies = method === 'POST' && rest === 'policies';
  const drains = method === 'PUT' && rest === 'drain';
  if (!applies && !drains && !(method === 'DELETE' && group === 'policies' && name !== ''))
    throw new MeshError('API-REQUEST', `method ${method} is not known here`);
  if (readOnly) throw new MeshError('API-READ-ONLY', '');
  if (applies) return { kind: 'record', record: await api.applyPolicies(readApply(body)) };
  if (drains) return { kind: 'record', record: await api.setDrain(readDrain(body)) };
  const policy = decode(name);
  return one(await api.deletePolicy(policy), `no policy ${JSON.stringify(policy)} came by the API`);
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

function decode(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    throw new MeshError('API-REQUEST', 'the path is not well encoded');
  }
}

function unknown(path: string): MeshError {
  return new MeshError('API-REQUEST', `no such path: ${JSON.stringify(path.slice(0, 200))}`);
}
