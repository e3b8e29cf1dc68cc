import { Backoff } from '../../core/backoff.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { sleep } from '../../core/job.ts';
import {
  type KubeClient,
  type KubeEvent,
  KubeExpired,
  KubeMissing,
  type KubeResource,
  KubeTooLarge,
} from './api-client.ts';
import { headOf } from './object.ts';

export interface ReflectorOptions<T> {
  readonly resource: KubeResource;
  /** A client for the next round: what is renewed on disk is used. @throws MeshError HUB-KUBE-CONFIG */
  readonly connect: () => Promise<KubeClient>;
  /** What is kept of an object. Never throws. */
  readonly convert: (object: object) => T;
  /** The set of objects, or how it is known, has changed. */
  readonly onChange: () => void;
  readonly retry?: { readonly minMs: number; readonly maxMs: number };
}

export interface ReflectorStatus {
  /** `missing`: the server does not know the resource. `away`: what is known may be old. */
  readonly state: 'connecting' | 'following' | 'missing' | 'away';
  /** Of the last complete list, milliseconds since the epoch. */
  readonly listedAt: number | undefined;
  /** Of the last word of the server. */
  readonly heardAt: number | undefined;
  readonly error: MeshError | undefined;
}

const PAGE = 100;
const MAX_OBJECTS = 20_000;
const RETRY = { minMs: 500, maxMs: 30_000 };
/** A missing CRD may be installed. */
const MISSING_MS = 60_000;

interface Kept<T> {
  readonly resourceVersion: string;
  readonly value: T;
}

/**
 * All objects of one resource, listed completely and followed from there. The set is replaced only by a complete list; whatever
 * fails leaves it as it was.
 */
export class Reflector<T> {
  readonly #options: ReflectorOptions<T>;
  readonly #backoff: Backoff;
  #objects = new Map<string, Kept<T>>();
  #status: ReflectorStatus = { state: 'connecting', listedAt: undefined, heardAt: undefined, error: undefined };
  /** Where to go on; undefined when a list is needed. */
  #resourceVersion: string | undefined;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.#backoff = new Backoff(options.retry ?? RETRY);
  }

  get resource(): KubeResource {
    return this.#options.resource;
  }

  get status(): ReflectorStatus {
    return this.#status;
  }

  /** By `<namespace>/<name>`; undefined until there was a complete list: then nothing may be concluded from absence. */
  get objects(): ReadonlyMap<string, T> | undefined {
    if (this.#status.listedAt === undefined) return undefined;
    return new Map([...this.#objects].map(([key, { value }]) => [key, value]));
  }

  get size(): number {
    return this.#objects.size;
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let client: KubeClient | undefined;
      try {
        client = await this.#options.connect();
        await this.#round(client, signal);
        this.#backoff.reset();
        await sleep(this.#backoff.next(), signal);
        this.#backoff.reset();
      } catch (error) {
        if (!signal.aborted) await sleep(this.#failed(error), signal);
      } finally {
        client?.close();
      }
    }
  }

  /** One watch, behind a list where it needs one. */
  async #round(client: KubeClient, signal: AbortSignal): Promise<void> {
    const { resource } = this.#options;
    if (this.#resourceVersion === undefined) await this.#list(client, signal);
    const resourceVersion = this.#resourceVersion ?? '';
    await client.watch(
      resource,
      { resourceVersion, onOpen: () => this.#heard(), onEvent: (event) => this.#take(event) },
      signal,
    );
  }

  async #list(client: KubeClient, signal: AbortSignal): Promise<void> {
    const { resource, convert } = this.#options;
    const found = new Map<string, Kept<T>>();
    let place = '';
    let limit = PAGE;
    for (;;) {
      let page: Awaited<ReturnType<KubeClient['list']>>;
      try {
        page = await client.list(resource, { limit, continue: place }, signal);
      } catch (error) {
        if (!(error instanceof KubeTooLarge) || limit === 1) throw error;
        limit = Math.ceil(limit / 10);
        continue;
      }
      for (const item of page.items) {
        const { key, object, resourceVersion } = headOf(item, resource);
        const before = this.#objects.get(key);
        // What did not change is not read again: a list of thousands comes with every 410.
        const same = before !== undefined && before.resourceVersion === resourceVersion;
        found.set(key, same ? before : { resourceVersion, value: convert(object) });
      }
      if (found.size > MAX_OBJECTS)
        throw new MeshError('HUB-KUBE-ANSWER', `more than ${MAX_OBJECTS} ${resource.plural}: nothing is taken over`);
      if (page.continue === '') {
        this.#replace(found, page.resourceVersion);
        return;
      }
      if (page.items.length === 0 || page.continue === place)
        throw new MeshError('HUB-KUBE-ANSWER', `the list of ${resource.plural} does not come to its end`);
      place = page.continue;
    }
  }

  #replace(found: Map<string, Kept<T>>, resourceVersion: string): void {
    this.#objects = found;
    this.#resourceVersion = resourceVersion;
    const now = Date.now();
    this.#status = { state: 'following', listedAt: now, heardAt: now, error: undefined };
    this.#options.onChange();
  }

  /** A watch is open, or says something. */
  #heard(): void {
    const { state } = this.#status;
    this.#status = { ...this.#status, state: 'following', heardAt: Date.now(), error: undefined };
    if (state !== 'following') this.#options.onChange();
  }

  #take(event: KubeEvent): void {
    const { resource, convert, onChange } = this.#options;
    if (event.type === 'expired') throw new KubeExpired('the watch is too old');
    this.#heard();
    this.#backoff.reset();
    const { key, object, resourceVersion } = headOf(event.object, resource, event.type === 'bookmark');
    const before = this.#objects.get(key);
    if (event.type === 'put' && before?.resourceVersion !== resourceVersion) {
      if (before === undefined && this.#objects.size >= MAX_OBJECTS)
        throw new MeshError('HUB-KUBE-ANSWER', `more than ${MAX_OBJECTS} ${resource.plural}`);
      this.#objects.set(key, { resourceVersion, value: convert(object) });
      onChange();
    }
    if (event.type === 'delete' && this.#objects.delete(key)) onChange();
    this.#resourceVersion = resourceVersion;
  }

  /** How long to wait. */
  #failed(cause: unknown): number {
    const { resource, onChange } = this.#options;
    if (cause instanceof KubeExpired) {
      this.#resourceVersion = undefined;
      return this.#backoff.next();
    }
    if (cause instanceof KubeMissing) {
      this.#resourceVersion = undefined;
      this.#status = { ...this.#status, state: 'missing', heardAt: Date.now(), error: undefined };
      onChange();
      return MISSING_MS * (0.5 + Math.random() / 2);
    }
    const error =
      cause instanceof MeshError
        ? cause
        : new MeshError('HUB-KUBE-ANSWER', `${resource.plural}: ${messageOf(cause)}`, { cause });
    // After a word that makes no sense, nothing is known of where we are.
    if (error.code === 'HUB-KUBE-ANSWER') this.#resourceVersion = undefined;
    const first =
      this.#backoff.failures === 0 && error.code === 'HUB-KUBE-UNREACHABLE' && this.#status.state === 'following';
    // A watch that breaks is ordinary: it is a trouble only when it cannot be opened again.
    if (!first) {
      this.#status = { ...this.#status, state: 'away', error };
      onChange();
    }
    return this.#backoff.next();
  }
}
