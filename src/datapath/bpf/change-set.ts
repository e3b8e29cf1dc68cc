import { setImmediate as nextTurn } from 'node:timers/promises';
import { BpfError } from '../../host/bpf/command.ts';
import type { BpfMap } from '../../host/bpf/map.ts';
import { ROW_BYTES, VERSIONED_BYTES, writeVersioned } from './layout.ts';

const CHUNK = 4096;

/** What a row has besides its code. */
export interface RowExtra {
  readonly packets: bigint;
  readonly bytes: bigint;
  readonly first: number;
  readonly last: number;
}

export interface ChangeSetOptions {
  /** The revision in force, and the next one. */
  readonly revision: bigint;
  readonly map: (name: string) => BpfMap;
  /** A map has become too small. */
  readonly grow: (name: string, needed: number) => Promise<void>;
}

interface Staged {
  keys: Buffer;
  values: Buffer;
  count: number;
}

/** One entry of a map on its way: 0 for nothing. */
export interface Move {
  readonly map: string;
  readonly before: number;
  readonly after: number;
}

/**
 * Entries that say one thing up to a revision and another from it on: nothing of it is seen before that revision is in
 * force. What says nothing then is `dead`: it goes when no packet can still be on its way to it.
 */
export class ChangeSet {
  readonly since: bigint;
  added = 0;
  removed = 0;
  /** Map to keys. */
  readonly dead = new Map<string, Set<string>>();
  readonly #options: ChangeSetOptions;
  readonly #staged = new Map<string, Staged>();
  #waiting = 0;

  constructor(options: ChangeSetOptions) {
    this.#options = options;
    this.since = options.revision + 1n;
  }

  /** `gone`: the entry goes, although it says something: that of a wider one. */
  put(move: Move, key: string, more: { row?: RowExtra; gone?: boolean } = {}): void {
    const staged = this.#stage(move.map);
    const { keyBytes, valueBytes } = this.#options.map(move.map).shape;
    staged.keys.write(key, staged.count * keyBytes, 'latin1');
    const at = staged.count * valueBytes;
    this.#write(staged, at, move);
    const { row } = more;
    if (row !== undefined) {
      staged.values.writeBigUInt64LE(row.packets, at + VERSIONED_BYTES);
      staged.values.writeBigUInt64LE(row.bytes, at + VERSIONED_BYTES + 8);
      staged.values.writeUInt16LE(row.first, at + ROW_BYTES - 8);
      staged.values.writeUInt16LE(row.last, at + ROW_BYTES - 6);
      staged.values.writeUInt32LE(0, at + ROW_BYTES - 4);
    }
    if (move.after === 0 || more.gone === true) this.#dies(move.map, key);
    else this.added++;
  }

  /** The same for a single address, of which there may be a million. */
  putHost(move: Move, words: ArrayLike<number>): void {
    const staged = this.#stage(move.map);
    let at = staged.count * words.length * 4;
    const start = at;
    for (let i = 0; i < words.length; i++, at += 4) staged.keys.writeUInt32BE(words[i] as number, at);
    this.#write(staged, staged.count * VERSIONED_BYTES, move);
    if (move.after === 0) this.#dies(move.map, staged.keys.toString('latin1', start, at));
    else this.added++;
  }

  /** Makes room in a map at once for so many entries, rather than again and again on the way there. */
  async reserve(name: string, entries: number): Promise<void> {
    if (entries > this.#options.map(name).shape.entries) await this.#options.grow(name, entries);
  }

  /** Something was written. */
  get any(): boolean {
    return this.added + this.removed > 0;
  }

  /** Called now and then: writes what has become large, and gives the event loop its turn. */
  async pause(): Promise<void> {
    if (this.#waiting >= CHUNK) await this.flush();
    await nextTurn();
  }

  async flush(): Promise<void> {
    for (const [name, staged] of this.#staged) {
      for (let done = 0; done < staged.count; done += CHUNK) {
        await this.#send(name, staged, done, Math.min(staged.count, done + CHUNK));
        if (done + CHUNK < staged.count) await nextTurn();
      }
      staged.count = 0;
    }
    this.#waiting = 0;
  }

  async #send(name: string, staged: Staged, from: number, to: number): Promise<void> {
    for (;;) {
      const map = this.#options.map(name);
      const { keyBytes, valueBytes, entries } = map.shape;
      try {
        map.putAll(
          staged.keys.subarray(from * keyBytes, to * keyBytes),
          staged.values.subarray(from * valueBytes, to * valueBytes),
        );
        return;
      } catch (error) {
        if (!(error instanceof BpfError && ['E2BIG', 'ENOSPC'].includes(error.errnoName))) throw error;
        await this.#options.grow(name, entries + (to - from));
      }
    }
  }

  #write(staged: Staged, at: number, { before, after }: Move): void {
    writeVersioned(staged.values, at, { before, after, since: this.since });
    staged.count++;
    this.#waiting++;
  }

  #dies(map: string, key: string): void {
    const keys = this.dead.get(map) ?? new Set();
    this.dead.set(map, keys.add(key));
    this.removed++;
  }

  #stage(name: string): Staged {
    const known = this.#staged.get(name);
    const { keyBytes, valueBytes } = this.#options.map(name).shape;
    const staged = known ?? { keys: Buffer.alloc(64 * keyBytes), values: Buffer.alloc(64 * valueBytes), count: 0 };
    if (known === undefined) this.#staged.set(name, staged);
    if ((staged.count + 1) * keyBytes > staged.keys.length) {
      staged.keys = Buffer.concat([staged.keys], staged.keys.length * 2);
      staged.values = Buffer.concat([staged.values], staged.values.length * 2);
    }
    return staged;
  }
}
