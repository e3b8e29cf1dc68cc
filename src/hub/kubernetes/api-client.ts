import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { MeshError, messageOf } from '../../core/errors.ts';
import type { KubeAccess } from './kubeconfig.ts';
import { LineSplitter } from './lines.ts';

/** A kind of objects of the Kubernetes API. */
export interface KubeResource {
  readonly kind: string;
  /** `cilium.io/v2` */
  readonly apiVersion: string;
  /** `ciliumnetworkpolicies` */
  readonly plural: string;
  readonly namespaced: boolean;
}

export interface KubePage {
  readonly resourceVersion: string;
  readonly items: readonly unknown[];
  /** For the next page; empty after the last one. */
  readonly continue: string;
}

export type KubeEvent =
  | { readonly type: 'put' | 'delete' | 'bookmark'; readonly object: unknown }
  /** The resource version is too old: list again. */
  | { readonly type: 'expired' };

export interface KubeTiming {
  /** For a connection and for the answer to a list. */
  readonly answerMs: number;
  /** How long the server is asked to keep a watch; it is ended by us a little later. */
  readonly watchMs: number;
}

export const KUBE_TIMING: KubeTiming = { answerMs: 30_000, watchMs: 290_000 };

/** An object has 1.5 MiB at most in the etcd of Kubernetes; as JSON within an event it can have more. */
const MAX_LINE_BYTES = 4 << 20;
const MAX_PAGE_BYTES = 32 << 20;
const MAX_ERROR_BYTES = 64 << 10;
const GRACE_MS = 15_000;
const KEEPALIVE_MS = 15_000;

/** The resource is not known to the server: its CRD is not installed. */
export class KubeMissing extends Error {}
/** A resource version, or the place in a list, is too old. */
export class KubeExpired extends Error {}
/** A page is larger than we take: ask for a smaller one. */
export class KubeTooLarge extends Error {}

/** Lists and watches, over one connection at a time for each. Everything else is left to those who call. */
export class KubeClient {
  readonly #access: KubeAccess;
  readonly #timing: KubeTiming;
  readonly #agent: Agent;

  constructor(access: KubeAccess, timing: KubeTiming = KUBE_TIMING) {
    this.#access = access;
    this.#timing = timing;
    const { ca, client, serverName } = access;
    this.#agent = new Agent({
      keepAlive: false,
      minVersion: 'TLSv1.2',
      ...(ca !== undefined && { ca }),
      ...client,
      ...(serverName !== undefined && { servername: serverName }),
    });
  }

  /**
   * @throws KubeMissing, KubeExpired, KubeTooLarge; MeshError HUB-KUBE-*
   */
  async list(
    resource: KubeResource,
    page: { readonly limit: number; readonly continue: string },
    signal: AbortSignal,
  ): Promise<KubePage> {
    const query = new URLSearchParams({ limit: String(page.limit) });
    if (page.continue !== '') query.set('continue', page.continue);
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(this.#timing.answerMs)]);
    const answer = await this.#get(resource, query, deadline);
    const body = await this.#reading(deadline, () => bodyOf(answer, MAX_PAGE_BYTES));
    if (body === undefined) throw new KubeTooLarge(`a page of more than ${MAX_PAGE_BYTES} bytes`);
    return this.#page(body);
  }

  /**
   * Calls `onEvent` for each event until the server ends the watch, which it does every few minutes; then it resolves. What
   * a connection brought that broke in the middle of a line is not told.
   * @throws KubeMissing, KubeExpired; MeshError HUB-KUBE-*
   */
  async watch(
    resource: KubeResource,
    from: {
      readonly resourceVersion: string;
      /** The server has agreed to it. */
      readonly onOpen: () => void;
      readonly onEvent: (event: KubeEvent) => void;
    },
    signal: AbortSignal,
  ): Promise<void> {
    const { watchMs, answerMs } = this.#timing;
    // Not all watches of all hubs at once.
    const lasting = Math.ceil((watchMs * (0.8 + 0.2 * Math.random())) / 1000);
    const query = new URLSearchParams({
      watch: 'true',
      allowWatchBookmarks: 'true',
      resourceVersion: from.resourceVersion,
      timeoutSeconds: String(lasting),
    });
    const late = new AbortController();
    const first = setTimeout(() => late.abort(), answerMs);
    const last = setTimeout(() => late.abort(), lasting * 1000 + GRACE_MS);
    const ended = AbortSignal.any([signal, late.signal]);
    try {
      const answer = await this.#get(resource, query, ended);
      clearTimeout(first);
      from.onOpen();
      await this.#reading(ended, () => this.#follow(answer, from.onEvent));
    } finally {
      clearTimeout(first);
      clearTimeout(last);
    }
  }

  close(): void {
    this.#agent.destroy();
  }

  async #follow(answer: IncomingMessage, onEvent: (event: KubeEvent) => void): Promise<void> {
    const lines = new LineSplitter(MAX_LINE_BYTES);
    try {
      for await (const chunk of answer)
        for (const line of lines.push(chunk as Buffer)) {
          const event = this.#event(line);
          onEvent(event);
          if (event.type === 'expired') return;
        }
    } catch (error) {
      if (error instanceof RangeError) throw this.#wrong(error.message);
      throw error;
    } finally {
      answer.destroy();
    }
  }

  #event(line: Buffer): KubeEvent {
    const content = this.#parse(line);
    const { type, object } = content as { type?: unknown; object?: unknown };
    if (typeof object !== 'object' || object === null) throw this.#wrong('an event has no object');
    if (type === 'ADDED' || type === 'MODIFIED') return { type: 'put', object };
    if (type === 'DELETED') return { type: 'delete', object };
    if (type === 'BOOKMARK') return { type: 'bookmark', object };
    if (type !== 'ERROR') throw this.#wrong(`an event has the type ${shown(type)}`);
    const { code, message } = object as { code?: unknown; message?: unknown };
    if (code === 410) return { type: 'expired' };
    throw this.#wrong(`the watch failed: ${shown(message)}`);
  }

  #page(body: Buffer): KubePage {
    const { metadata, items } = this.#parse(body) as { metadata?: unknown; items?: unknown };
    if (typeof metadata !== 'object' || metadata === null) throw this.#wrong('a list has no metadata');
    const { resourceVersion, continue: next = '' } = metadata as { resourceVersion?: unknown; continue?: unknown };
    if (typeof resourceVersion !== 'string' || resourceVersion === '' || typeof next !== 'string')
      throw this.#wrong('a list has no resourceVersion');
    // Go writes an empty list as null.
    if (items !== null && !Array.isArray(items)) throw this.#wrong('a list has no items');
    return { resourceVersion, continue: next, items: items ?? [] };
  }

  #parse(text: Buffer): object {
    let content: unknown;
    try {
      content = JSON.parse(text.toString('utf8'));
    } catch (error) {
      throw this.#wrong(`it is not JSON: ${messageOf(error).slice(0, 120)}`);
    }
    if (typeof content !== 'object' || content === null) throw this.#wrong('it is no object');
    return content;
  }

  /** The answer with its head; only those that are fine. */
  async #get(resource: KubeResource, query: URLSearchParams, signal: AbortSignal): Promise<IncomingMessage> {
    const { server, token } = this.#access;
    const url = `${server}/apis/${resource.apiVersion}/${resource.plural}?${query}`;
    const headers = {
      accept: 'application/json',
      'user-agent': 'mesh-agent-hub',
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    };
    const answer = await this.#reading(
      signal,
      () =>
        new Promise<IncomingMessage>((resolve, reject) => {
          const asked = request(url, { agent: this.#agent, headers, signal }, resolve);
          asked.on('error', reject);
          asked.on('socket', (socket) => socket.setKeepAlive(true, KEEPALIVE_MS));
          asked.end();
        }),
    );
    if (answer.statusCode === 200) return answer;
    const body = await this.#reading(signal, () => bodyOf(answer, MAX_ERROR_BYTES));
    throw this.#refused(answer.statusCode ?? 0, body ?? Buffer.alloc(0));
  }

  #refused(status: number, body: Buffer): Error {
    const reason = reasonOf(body);
    if (status === 404) return new KubeMissing(reason);
    if (status === 410) return new KubeExpired(reason);
    const place = this.#access.server;
    const text = `status ${status}${reason === '' ? '' : `: ${reason}`}`;
    if (status === 401 || status === 403) return new MeshError('HUB-KUBE-DENIED', text, { place });
    if (status === 429 || status >= 500) return new MeshError('HUB-KUBE-UNREACHABLE', text, { place });
    return this.#wrong(text);
  }

  /** Names what a connection can suffer. */
  async #reading<T>(signal: AbortSignal, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (cause) {
      if (cause instanceof MeshError || cause instanceof KubeExpired) throw cause;
      const place = this.#access.server;
      if (signal.aborted) throw new MeshError('HUB-KUBE-UNREACHABLE', 'no answer in time', { place, cause });
      const code = (cause as NodeJS.ErrnoException).code ?? '';
      const tls = /^(ERR_TLS|ERR_SSL|CERT_|UNABLE_TO|DEPTH_ZERO|SELF_SIGNED|ERR_OSSL|EPROTO)/.test(code);
      throw new MeshError(tls ? 'HUB-KUBE-TLS' : 'HUB-KUBE-UNREACHABLE', messageOf(cause).slice(0, 200), {
        place,
        cause,
      });
    }
  }

  #wrong(detail: string): MeshError {
    return new MeshError('HUB-KUBE-ANSWER', detail, { place: this.#access.server });
  }
}

/** Undefined when it is larger. */
async function bodyOf(answer: IncomingMessage, limit: number): Promise<Buffer | undefined> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of answer) {
      size += (chunk as Buffer).length;
      if (size > limit) return undefined;
      parts.push(chunk as Buffer);
    }
  } finally {
    answer.destroy();
  }
  return Buffer.concat(parts, size);
}

function reasonOf(body: Buffer): string {
  try {
    const { message } = JSON.parse(body.toString('utf8')) as { message?: unknown };
    return typeof message === 'string' ? message.slice(0, 200) : '';
  } catch {
    return '';
  }
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? 'undefined').slice(0, 200);
}
