import { MeshError } from '../core/errors.ts';
import type { Connection } from './connection.ts';
import { decodeWatch, encodeWatchCancel, encodeWatchCreate, type WatchResponse } from './messages.ts';
import type { Prefix } from './prefix.ts';
import { classify, notEtcd, type Stream } from './transport.ts';

interface Open {
  readonly prefix: Prefix;
  created: boolean;
  readonly end: (error?: unknown) => void;
}

/** After so much work in one go the event loop gets its turn, milliseconds; meanwhile the store has to wait. */
const SLICE_MS = 8;
const NOTHING = Buffer.alloc(0);

/** The watch stream of one connection. */
export class WatchLink {
  readonly connection: Connection;
  readonly #stream: Stream;
  readonly #open = new Map<number, Open>();
  readonly #onCreated: (prefix: Prefix) => void;
  #lastId = 0;
  #sliceEnd = 0;
  closed = false;

  constructor(connection: Connection, onCreated: (prefix: Prefix) => void) {
    this.connection = connection;
    this.#onCreated = onCreated;
    this.#stream = connection.transport.stream('Watch/Watch');
    this.#stream.on('data', (data: Buffer) => this.#receive(data));
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

  #receive(data: Buffer): void {
    if (this.closed) return;
    try {
      this.#take(decodeWatch(data, (id) => this.#open.get(id)?.prefix.target.bytes ?? NOTHING));
    } catch (error) {
      this.#broken(notEtcd(error, this.connection.transport.endpoint));
      return;
    }
    const now = performance.now();
    if (this.#sliceEnd === 0) {
      this.#sliceEnd = now + SLICE_MS;
      setImmediate(() => {
        this.#sliceEnd = 0;
        this.#stream.resume();
      });
    } else if (now > this.#sliceEnd) this.#stream.pause();
  }

  #take(response: WatchResponse): void {
    this.connection.seen(response.header);
    const open = this.#open.get(response.watchId) ?? this.#refused(response);
    if (open === undefined) return;
    if (response.canceled) this.#canceled(open, response);
    else if (response.created) {
      open.created = true;
      this.#onCreated(open.prefix);
    } else open.prefix.events(this.connection, response);
  }

  /** Since etcd 3.5 a refused watch is answered with the id -1. Answers come in the order of the requests. */
  #refused(response: WatchResponse): Open | undefined {
    if (!response.canceled || response.watchId >= 0) return undefined;
    return [...this.#open.values()].find(({ created }) => !created);
  }

  #canceled(open: Open, response: WatchResponse): void {
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
