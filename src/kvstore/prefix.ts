import { turns } from '../core/turns.ts';
import type { Connection } from './connection.ts';
import { type KeyRange, prefixEnd, type RangeResponse, type WatchEvent, type WireKeyValue } from './messages.ts';
import { type PageAnswer, PageCursor } from './page-cursor.ts';
import type { PrefixSink } from './store.ts';
import { isTooLarge } from './transport.ts';

/** What is listed or watched: everything under a prefix, or one key. */
export class Target implements KeyRange {
  readonly key: string;
  readonly rangeEnd?: Buffer;
  /** The key as bytes: it is cut off what is found. */
  readonly bytes: Buffer;

  constructor(path: string, single: boolean) {
    this.key = path;
    this.bytes = Buffer.from(path);
    if (!single) this.rangeEnd = prefixEnd(path);
  }
}

/**
 * All keys of a target page by page, at the revision of the first page, which goes through the quorum; the further ones are
 * history that the same member has already shown, and do not. The next page is asked for while the present one is used.
 */
export async function* pages(connection: Connection, target: Target): AsyncGenerator<RangeResponse> {
  if (target.rangeEnd === undefined) return yield await connection.range({ key: target.key }, target.bytes);
  const cursor = new PageCursor(target.bytes, target.rangeEnd);
  let page = await ask(connection, { target, cursor });
  const { revision } = page?.header ?? { revision: 0 };
  while (page !== undefined) {
    const following = ask(connection, { target, cursor, revision });
    // A page that fails while this one is used is awaited below: no rejection goes unseen.
    following.catch(() => {});
    yield page;
    page = await following;
  }
}

interface Asked {
  readonly target: Target;
  readonly cursor: PageCursor;
  /** Undefined for the first page. */
  readonly revision?: number;
}

/** The next page, or undefined when everything was seen. */
async function ask(connection: Connection, { target, cursor, revision }: Asked): Promise<RangeResponse | undefined> {
  const history = revision === undefined ? {} : { revision, serializable: true };
  for (let request = cursor.next; request !== undefined; request = cursor.next) {
    try {
      const { from, to, limit } = request;
      const began = performance.now();
      const page = await connection.range({ key: from, rangeEnd: to, limit, ...history }, target.bytes);
      cursor.answered({ ...described(page, target), ms: performance.now() - began });
      return page;
    } catch (error) {
      if (!isTooLarge(error) || !cursor.tooLarge()) throw error;
    }
  }
  return undefined;
}

function described(page: RangeResponse, target: Target): PageAnswer {
  const { kvs, more, count } = page;
  const last = kvs.at(-1);
  return {
    keys: kvs.length,
    bytes: kvs.reduce((sum, kv) => sum + kv.key.length + kv.value.length, 0),
    last: last && Buffer.from(target.key + last.key),
    more,
    count,
  };
}

/** One watched target: what it has seen, and its sink. */
export class Prefix {
  readonly target: Target;
  readonly #sink: PrefixSink;
  readonly #onSinkError: (key: string, error: unknown) => void;
  /** The revision to watch from; undefined when it must be listed. */
  next: number | undefined;
  synced = false;
  lists = 0;
  /** In a row, since it last worked. */
  failures = 0;
  closed = false;
  lastError: string | undefined;

  constructor(target: Target, sink: PrefixSink, onSinkError: (key: string, error: unknown) => void) {
    this.target = target;
    this.#sink = sink;
    this.#onSinkError = onSinkError;
  }

  /** Lists, and knows then where to watch from, unless it was closed or `ended` in between. */
  async list(connection: Connection, ended: () => boolean): Promise<void> {
    let revision: number | undefined;
    for await (const page of pages(connection, this.target)) {
      if (ended() || this.closed) return;
      if (revision === undefined) this.#guard('', () => this.#sink.listing());
      revision ??= page.header.revision;
      for (const kv of page.kvs) {
        if (turns.over) await turns.next();
        if (ended() || this.closed) return;
        this.#put(kv);
      }
      this.#remember(connection, page.kvs.at(-1));
    }
    if (revision === undefined || ended() || this.closed) return;
    this.#guard('', () => this.#sink.listed());
    this.next = revision + 1;
    this.lists++;
    this.synced = true;
  }

  /**
   * Takes the events of one answer, one a step. `split`: more of the last revision follow in another answer. What is left
   * when it is closed, or when the store's data are others now, is not for it any more.
   */
  *taking(connection: Connection, events: Iterable<WatchEvent>, split: boolean): Generator<void> {
    let revision = 0;
    let put: WireKeyValue | undefined;
    for (const { deleted, kv } of events) {
      if (this.closed || this.next === undefined) return;
      revision = kv.modRevision;
      // Some etcd versions repeat events to a watch that was behind.
      if (revision >= this.next) {
        // A break from here on must bring the whole revision again; its effects are idempotent. Those before it are done.
        this.next = revision;
        if (deleted) this.#guard(kv.key, () => this.#sink.remove(kv.key));
        else this.#put(kv);
        if (!deleted) put = kv;
      }
      yield;
    }
    if (this.closed || this.next === undefined) return;
    if (!split) this.next = Math.max(this.next, revision + 1);
    this.#remember(connection, put);
  }

  #remember(connection: Connection, kv: WireKeyValue | undefined): void {
    if (kv !== undefined) connection.remember(this.target.key + kv.key, kv.modRevision);
  }

  #put(kv: WireKeyValue): void {
    try {
      this.#sink.put(kv.key, kv.value, kv.modRevision, kv.lease);
    } catch (error) {
      this.#onSinkError(this.target.key + kv.key, error);
    }
  }

  #guard(key: string, call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#onSinkError(this.target.key + key, error);
    }
  }
}
