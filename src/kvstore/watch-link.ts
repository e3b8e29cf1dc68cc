import { MeshError } from '../core/errors.ts';
import { turns } from '../core/turns.ts';
import type { Connection } from './connection.ts';
import { encodeWatchCancel, encodeWatchCreate } from './messages.ts';
import type { Prefix } from './prefix.ts';
import { classify, notEtcd, type Stream } from './transport.ts';
import { readWatchEvents, readWatchHead, type WatchHead } from './watch-message.ts';

interface Open {
  readonly prefix: Prefix;
  created: boolean;
  readonly end: (error?: unknown) => void;
}

/**
 * The watch stream of one connection. One answer is taken at a time, piece by piece while the event loop has time for it;
 * the next one is asked for when it is done, and until then the store has to wait: it keeps what a slow reader has not seen.
 */
export class WatchLink {
  readonly connection: Connection;
  readonly #stream: Stream;
  readonly #taken: () => void;
  readonly #open = new Map<number, Open>();
  readonly #onCreated: (prefix: Prefix) => void;
  #lastId = 0;
  closed = false;

  constructor(connection: Connection, onCreated: (prefix: Prefix) => void) {
    this.connection = connection;
    this.#onCreated = onCreated;
    const { stream, taken } = connection.transport.watchStream();
    this.#stream = stream;
    this.#taken = taken;
    this.#stream.on('data', (data: Buffer) => this.#work(this.#take(data)));
    this.#stream.on('error', (error) => this.#broken(classify(error, connection.transport.endpoint)));
    this.#stream.on('end', () => this.#broken(undefined));
  }

  /** Watches until the watch ends. Rejects with the reason; resolves when the link or the prefix was closed. */
  watch(prefix: Prefix): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.closed) return resolve();
      const id = ++this.#lastId;
      const end = (error?: unknown): void => {
        if (!this.#open.delete(id)) return;
        if (error === undefined) resolve();
        else reject(error as Error);
      };
      this.#open.set(id, { prefix, created: false, end });
      this.#stream.write(encodeWatchCreate(id, prefix.target, prefix.next ?? 0));
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

  #work(steps: Iterator<void>): void {
    try {
      while (!this.closed && !turns.over) {
        if (steps.next().done !== true) continue;
        this.#taken();
        return;
      }
      if (!this.closed) turns.call(() => this.#work(steps));
    } catch (error) {
      this.#broken(notEtcd(error, this.connection.transport.endpoint));
    }
  }

  *#take(data: Buffer): Generator<void> {
    const head = yield* readWatchHead(data);
    this.connection.seen(head.header);
    const open = this.#open.get(head.watchId) ?? this.#refused(head);
    if (open === undefined) return;
    if (head.canceled) this.#canceled(open, head);
    else if (head.created) {
      open.created = true;
      this.#onCreated(open.prefix);
    } else {
      const { prefix } = open;
      yield* prefix.taking(this.connection, readWatchEvents(data, prefix.target.bytes), head.fragment);
    }
  }

  /** Since etcd 3.5 a refused watch is answered with the id -1. Answers come in the order of the requests. */
  #refused(response: WatchHead): Open | undefined {
    if (!response.canceled || response.watchId >= 0) return undefined;
    return [...this.#open.values()].find(({ created }) => !created);
  }

  #canceled(open: Open, response: WatchHead): void {
    const { endpoint } = this.connection.transport;
    if (response.compactRevision > 0) {
      open.prefix.next = undefined;
      open.end(new MeshError('KVS-LOST', 'mvcc: required revision has been compacted', { place: endpoint }));
    } else open.end(classify(new Error(response.cancelReason || 'the store canceled the watch'), endpoint));
  }

  #broken(error: unknown): void {
    if (this.closed) return;
    this.close();
    this.connection.fail(error ?? new MeshError('KVS-LOST', 'the store ended the watch stream'));
  }
}
