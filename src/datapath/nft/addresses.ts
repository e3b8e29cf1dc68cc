import { setImmediate as nextTurn } from 'node:timers/promises';
import { WordTable } from '../../core/word-table.ts';
import type { DesiredAddresses } from '../desired.ts';
import type { ElementBatch } from './elements.ts';
import { identityMark, SHARDS, shardOf } from './names.ts';

type Hosts = DesiredAddresses['hosts4'];
type Key = ArrayLike<number>;

/** Single addresses looked at between two looks at the event loop. */
const TURN = 4096;

export interface HostWriter {
  readonly batch: ElementBatch;
  /** Called now and then; sends what has become large. */
  pause(): Promise<void>;
  /**
   * The identity, as a mark, that an address will have when it is no single address any more. Given, it stays one with this
   * identity until `leave`.
   */
  readonly behind?: (key: Key) => number;
}

/**
 * The single addresses of one family that the kernel holds, in tables like its maps. (Small tables also grow in small steps:
 * one of a million rows holds the event loop for 0.1 s when it doubles.)
 */
export class HostTracker {
  readonly family: 4 | 6;
  readonly shards: readonly WordTable[];
  readonly #width: 1 | 4;
  readonly #leaving: WordTable;

  constructor(family: 4 | 6) {
    this.family = family;
    this.#width = family === 4 ? 1 : 4;
    this.shards = SHARDS.map(() => new WordTable({ keyWords: this.#width, columns: 1 }));
    this.#leaving = new WordTable({ keyWords: this.#width, columns: 0 });
  }

  get size(): number {
    let size = 0;
    for (const table of this.shards) size += table.size;
    return size;
  }

  clear(): void {
    for (const table of this.shards) table.clear();
    this.#leaving.clear();
  }

  /** Writes these addresses as `desired` has them now. */
  async putSome(keys: readonly Key[], desired: Hosts, writer: HostWriter): Promise<void> {
    // One message for each map, not for each address.
    const last = this.#width - 1;
    const sorted = [...keys].sort((a, b) => shardOf(a[last] as number) - shardOf(b[last] as number));
    for (const [index, key] of sorted.entries()) {
      this.#put(key, desired, writer);
      if (index % TURN === TURN - 1) await turn(writer);
    }
  }

  /** Writes every difference between what is held and what is desired. `desired` may change meanwhile: it is read late. */
  async become(desired: Hosts, writer: HostWriter): Promise<void> {
    const wanted = desired.keys();
    for (const [shard, table] of this.shards.entries()) {
      if (table.size > 0) await this.#walk(table.keys(), { shard, desired, writer });
      await this.#walk(wanted, { shard, desired, writer });
    }
  }

  /** Takes away what stayed for the sake of `HostWriter.behind`. */
  async leave(desired: Hosts, writer: HostWriter): Promise<void> {
    const keys = this.#leaving.keys();
    this.#leaving.clear();
    if (keys.length === 0) return;
    for (const shard of SHARDS) await this.#walk(keys, { shard, desired, writer });
  }

  async #walk(keys: Uint32Array, on: { shard: number; desired: Hosts; writer: HostWriter }): Promise<void> {
    const width = this.#width;
    const key = new Uint32Array(width);
    let count = 0;
    for (let at = 0; at < keys.length; at += width) {
      if (shardOf(keys[at + width - 1] as number) !== on.shard) continue;
      for (let i = 0; i < width; i++) key[i] = keys[at + i] as number;
      this.#put(key, on.desired, on.writer);
      if (++count % TURN === 0) await turn(on.writer);
    }
    await turn(on.writer);
  }

  #put(key: Key, desired: Hosts, { batch, behind }: HostWriter): void {
    const held = this.shards[shardOf(key[this.#width - 1] as number)] as WordTable;
    const identity = desired.lookup(key, 0);
    const before = held.lookup(key, 0);
    let wanted = identity === undefined ? undefined : identityMark(identity);
    if (before === wanted) return;
    if (wanted === undefined && behind !== undefined) {
      this.#leaving.insert(key);
      wanted = behind(key);
      if (before === wanted) return;
    }
    if (before !== undefined) batch.host(key, undefined);
    if (wanted === undefined) held.remove(key);
    else {
      batch.host(key, wanted);
      held.set(held.insert(key), 0, wanted);
    }
  }
}

async function turn(writer: HostWriter): Promise<void> {
  await writer.pause();
  await nextTurn();
}
