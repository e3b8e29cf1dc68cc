import { recordFilter } from '../api/record-filter.ts';
import type { Answer } from '../api/routes.ts';
import type { Answerer } from '../api/server.ts';
import { MeshError } from '../core/errors.ts';

/** What the local socket of the hub answers, as parts add it. */
export interface HubApi {
  /**
   * Answers `METHOD /v1/<path>`. A segment `:name` of the path stands for any one segment. Of two paths that fit, the one that was
   * added first wins. Adding the same path again replaces the handler: a part of the leader says so in every term.
   */
  route(method: HubMethod, path: string, handler: HubHandler): void;
}

export type HubMethod = 'GET' | 'POST' | 'PUT' | 'DELETE';

export interface HubRequest {
  /** The segments that `:name` stood for, decoded. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** The body as JSON, at most 4 MiB; undefined without one. Its shape is the handler's to check. */
  readonly body: unknown;
}

/** One record, a list of records of any length, or nothing. What is thrown as MeshError is answered as an error. */
export type HubAnswer = { readonly record: object } | { readonly list: Iterable<object> } | undefined;

export type HubHandler = (request: HubRequest) => HubAnswer | Promise<HubAnswer>;

export const HUB_BODY_BYTES = 4 << 20;

interface Route {
  readonly method: string;
  readonly path: string;
  readonly segments: readonly string[];
  handler: HubHandler;
}

/** Paths and their handlers. */
export class HubRoutes implements HubApi {
  readonly #routes: Route[] = [];

  route(method: HubMethod, path: string, handler: HubHandler): void {
    const known = this.#routes.find((route) => route.method === method && route.path === path);
    if (known === undefined) this.#routes.push({ method, path, segments: path.split('/'), handler });
    else known.handler = handler;
  }

  /** For `serveSocket`. */
  readonly answer: Answerer = async ({ method, target, body }): Promise<Answer> => {
    const url = parseTarget(target);
    const fitting = this.#routes.flatMap((route) => {
      const params = match(route.segments, url.segments);
      return params === undefined ? [] : [{ route, params }];
    });
    const found = fitting.find(({ route }) => route.method === method);
    if (found === undefined) {
      const shown = JSON.stringify(target.slice(0, 200));
      const why = fitting.length === 0 ? `no such path: ${shown}` : `method ${method} is not known for ${shown}`;
      throw new MeshError('API-REQUEST', why);
    }
    const answer = await found.route.handler({ params: found.params, query: url.query, body: parseBody(body) });
    if (answer === undefined) return { kind: 'none' };
    if ('record' in answer) return { kind: 'record', record: answer.record };
    return { kind: 'list', records: answer.list, filter: recordFilter(url.query) };
  };
}

function parseTarget(target: string): { segments: string[]; query: URLSearchParams } {
  const [path = '', query = ''] = target.split('?', 2);
  if (!path.startsWith('/v1/'))
    throw new MeshError('API-REQUEST', `no such path: ${JSON.stringify(target.slice(0, 200))}`);
  try {
    const segments = path.slice('/v1/'.length).split('/').map(decodeURIComponent);
    return { segments, query: new URLSearchParams(query) };
  } catch {
    throw new MeshError('API-REQUEST', 'the path is not well encoded');
  }
}

function match(pattern: readonly string[], segments: readonly string[]): Record<string, string> | undefined {
  if (pattern.length !== segments.length) return undefined;
  const params: Record<string, string> = Object.create(null);
  for (const [index, part] of pattern.entries()) {
    const segment = segments[index] ?? '';
    if (part.startsWith(':')) {
      if (segment === '') return undefined;
      params[part.slice(1)] = segment;
    } else if (part !== segment) return undefined;
  }
  return params;
}

function parseBody(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  try {
    return JSON.parse(body.toString('utf8'));
  } catch {
    throw new MeshError('API-REQUEST', 'the body is not valid JSON');
  }
}
