import { WordTable } from '../../core/word-table.ts';
import type { DesiredAddresses } from '../desired.ts';
import type { ChangeSet } from './change-set.ts';

type Hosts = DesiredAddresses['hosts4'];
type Key = ArrayLike<number>;

/** Single addresses looked at between two looks at the event loop. */
const TURN = 4096;

/** The single addresses of one family that the kernel holds. */
export class HostTracker {
  readonly map: string;
  readonly held: WordTable;
  readonly #width: 1 | 4;

  constructor(family: 4 | 6) {
    this.map = `hosts${family}`;
    this.#width = family === 4 ? 1 : 4;
    this.held = new WordTable({ keyWords: this.#width, columns: 1 });
  }

  hold(key: Key, identity: number): void {
    this.held.set(this.held.insert(key), 0, identity);
  }

  /** Writes these addresses as `desired` has them now. */
  async putSome(keys: Iterable<Key>, desired: Hosts, set: ChangeSet): Promise<void> {
    let count = 0;
    for (const key of keys) {
      this.#put(key, desired, set);
      if (++count % TURN === 0) await set.pause();
    }
  }

  /** Writes every difference between what is held and what is desired. `desired` may change meanwhile: it is read late. */
  async become(desired: Hosts, set: ChangeSet): Promise<void> {
    if (this.held.size > 0) await this.putSome(this.#each(this.held.keys()), desired, set);
    await this.putSome(this.#each(desired.keys()), desired, set);
  }

  *#each(keys: Uint32Array): Iterable<Key> {
    const width = this.#width;
    for (let at = 0; at < keys.length; at += width) yield keys.subarray(at, at + width);
  }

  #put(key: Key, desired: Hosts, set: ChangeSet): void {
    const before = this.held.lookup(key, 0) ?? 0;
    const after = desired.lookup(key, 0) ?? 0;
    if (before === after) return;
    set.putHost({ map: this.map, before, after }, key);
    if (after === 0) this.held.remove(key);
    else this.hold(key, after);
  }
}
