import { setImmediate as yieldToLoop } from 'node:timers/promises';
import { messageOf } from '../core/errors.ts';
import { type JobGroup, sleep } from '../core/job.ts';
import {
  decodeWatch,
  encodeWatchCancel,
  encodeWatchCreate,
  prefixEnd,
  type WatchResponse,
  type WireKeyValue,
} from './messages.ts';
import type { Connection } from './session.ts';
import type { PrefixSink, PrefixWatch } from './store.ts';
import { classify, isCompacted, type Stream } from './transport.ts';

/** Pages of a list: small at first, growing while an answer stays below the target. */
const FIRST_PAGE = 256;
const MAX_PAGE = 5000;
const TARGET_BYTES = 1 << 20;
/** After a watch that ended for no known reason, milliseconds. */
const RETRY_MS = 50;

/**
 * All watched prefixes of one session, multiplexed over one watch stream. Each prefix is listed once, page by page at one
 * revision, then watched from the next; after a disconnect it resumes behind the last revision that it saw. Only
 * compaction, a lost data set or a refusal leads back to a list.
 */
export class PrefixWatches {
  readonly #jobs: JobGroup;
  readonly #onSinkError: (key: string, error: unknown) => void;
  readonly #prefixes = new Set<Prefix>();
  #link: WatchLink | undefined;

  constructor(jobs: JobGroup, onSinkError: (key: string, error: unknown) => void) {
    this.#jobs = jobs;
    this.#onSinkError = onSinkError;
  }

  add(path: string, sink: PrefixSink): PrefixWatch {
    const prefix = new Prefix(path, sink, this.#onSinkError);
    this.#prefixes.add(prefix);
    if (this.#link !== undefined) this.#start(prefix, this.#link);
    return {
      get synced() {
        return prefix.synced;
      },
      get lists() {
        return prefix.lists;
      },
      get lastError() {
        return prefix.lastError;
      },
      close: () => {
        prefix.closed = true;
        this.#prefixes.delete(prefix);
        this.#link?.cancel(prefix);
      },
    };
  }

  connect(connection: Connection): void {
    const link = new WatchLink(connection);
    this.#link = link;
    for (const prefix of this.#prefixes) this.#start(prefix, link);
  }

  disconnect(): void {
    this.#link?.close();
    this.#link = undefined;
  }

  /** The store's data are others now: every prefix is listed again. */
  forget(): void {
    for (const prefix of this.#prefixes) prefix.next = undefined;
  }

  close(): void {
    for (const prefix of this.#prefixes) prefix.closed = true;
    this.disconnect();
  }

  #start(prefix: Prefix, link: WatchLink): void {
    this.#jobs.start(`watch ${prefix.path}`, async (signal) => {
      while (!signal.aborted && !prefix.closed && !link.closed) {
        try {
          if (prefix.next === undefined) await prefix.list(link.connection, () => link.closed || signal.aborted);
          if (prefix.next === undefined) continue;
          await link.watch(prefix);
        } catch (error) {
          prefix.lastError = messageOf(error);
          if (isCompacted(error)) prefix.next = undefined;
          await sleep(RETRY_MS * Math.min(100, ++prefix.failures), signal);
        }
      }
    });
  }
}

class Prefix {
  readonly path: string;
  readonly #sink: PrefixSink;
  readonly #onSinkError: (key: string, error: unknown) => void;
  /** The revision to watch from; undefined when the prefix must be listed. */
  next: number | undefined;
  synced = false;
  lists = 0;
  failures = 0;
  closed = false;
  lastError: string | undefined;

  constructor(path: string, sink: PrefixSink, onSinkError: (key: string, error: unknown) => void) {
    this.path = path;
    this.#sink = sink;
    this.#onSinkError = onSinkError;
  }

  /** Lists at the revision of the first page, asking for the next page while the present one is taken in. */
  async list(connection: Connection, ended: () => boolean): Promise<void> {
    const rangeEnd = prefixEnd(this.path);
    let limit = FIRST_PAGE;
    let page = await connection.range({ key: this.path, rangeEnd, limit });
    const { revision } = page.header;
    this.#guard('', () => this.#sink.listing());
    for (;;) {
      const last = page.kvs.at(-1);
      if (page.more && last !== undefined) limit = nextLimit(limit, page.kvs);
      const following =
        page.more && last !== undefined
          ? connection.range({ key: `${last.key}\0`, rangeEnd, limit, revision })
          : undefined;
      // A page that fails while this one is taken in is awaited below: no rejection goes unseen.
      following?.catch(() => {});
      for (const kv of page.kvs) this.#put(kv);
      if (following === undefined) break;
      await yieldToLoop();
      page = await following;
      if (ended() || this.closed) return;
    }
    this.#guard('', () => this.#sink.listed());
    this.next = revision + 1;
    this.lists++;
    this.failures = 0;
    this.synced = true;
    this.lastError = undefined;
  }

  events(response: WatchResponse): void {
    for (const { deleted, kv } of response.events) {
      const key = kv.key.slice(this.path.length);
      if (deleted) this.#guard(kv.key, () => this.#sink.remove(key));
      else this.#put(kv);
    }
    const last = response.events.at(-1);
    // In the middle of a split revision a resume must bring the whole revision again; its effects are idempotent.
    if (last !== undefined && !response.fragment) this.next = last.kv.modRevision + 1;
  }

  #put(kv: WireKeyValue): void {
    this.#guard(kv.key, () => this.#sink.put(kv.key.slice(this.path.length), kv.value, kv.modRevision));
  }

  #guard(key: string, call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#onSinkError(key, error);
    }
  }
}

function nextLimit(limit: number, kvs: readonly WireKeyValue[]): number {
  const bytes = kvs.reduce((sum, kv) => sum + kv.key.length + kv.value.length, 0);
  const fitting = Math.floor(TARGET_BYTES / Math.max(1, bytes / Math.max(1, kvs.length)));
  return Math.max(1, Math.min(MAX_PAGE, fitting, limit * 4));
}

interface Open {
  readonly prefix: Prefix;
  readonly end: (error?: unknown) => void;
}

/** The watch stream of one connection. */
class WatchLink {
  readonly connection: Connection;
  readonly #stream: Stream;
  readonly #open = new Map<number, Open>();
  #lastId = 0;
  closed = false;

  constructor(connection: Connection) {
    this.connection = connection;
    this.#stream = connection.transport.stream('Watch/Watch');
    this.#stream.on('data', (data: Buffer) => this.#receive(data));
    this.#stream.on('error', (error) => this.#broken(classify(error, connection.transport.endpoint)));
    this.#stream.on('end', () => this.#broken(undefined));
  }

  /** Watches until the watch ends. Rejects with the reason; resolves when it may be tried again at once. */
  watch(prefix: Prefix): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.closed) return resolve();
      const id = ++this.#lastId;
      this.#open.set(id, {
        prefix,
        end: (error) => {
          if (!this.#open.delete(id)) return;
          if (error === undefined) resolve();
          else reject(error as Error);
        },
      });
      this.#stream.write(encodeWatchCreate(id, prefix.path, prefix.next ?? 0));
    });
  }

  cancel(prefix: Prefix): void {
    for (const [id, open] of this.#open) {
      if (open.prefix !== prefix) continue;
      if (!this.closed) this.#stream.write(encodeWatchCancel(id));
      open.end();
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const open of [...this.#open.values()]) open.end();
    this.#stream.cancel();
  }

  #receive(data: Buffer): void {
    try {
      const response = decodeWatch(data);
      this.connection.seen(response.header);
      const open = this.#open.get(response.watchId);
      if (open === undefined) return;
      if (response.canceled) this.#canceled(open, response);
      else open.prefix.events(response);
    } catch (error) {
      this.#broken(error);
    }
  }

  #canceled(open: Open, response: WatchResponse): void {
    if (response.compactRevision > 0) open.prefix.next = undefined;
    open.end(
      new Error(
        response.compactRevision > 0
          ? 'mvcc: required revision has been compacted'
          : response.cancelReason || 'watch canceled',
      ),
    );
  }

  #broken(error: unknown): void {
    if (this.closed) return;
    this.close();
    this.connection.fail(error ?? new Error('the store ended the watch stream'));
  }
}
