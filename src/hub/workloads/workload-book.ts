import { Feed, type FeedReader } from '../../core/feed.ts';
import type { Store } from '../../kvstore/store.ts';
import { Mirror } from './mirror.ts';
import { Ranges } from './ranges.ts';
import { decodeWorkload, WORKLOADS_PREFIX, type Workload } from './workload.ts';

export interface KnownWorkload extends Workload {
  /** Modification revision of the object. */
  readonly revision: number;
}

/** The workloads as the store has them, by name. */
export class WorkloadBook {
  readonly ranges: Ranges;
  readonly #mirror: Mirror<KnownWorkload>;
  readonly #feed = new Feed<string>();
  readonly #byName = new Map<string, KnownWorkload>();

  constructor(store: Pick<Store, 'watchPrefix'>) {
    this.ranges = new Ranges(store);
    this.#mirror = new Mirror<KnownWorkload>({
      store,
      prefix: WORKLOADS_PREFIX,
      decode: (key, value, revision) => ({ ...decodeWorkload(key, value), revision }),
      onChange: (key) => this.#changed(key),
    });
  }

  get size(): number {
    return this.#byName.size;
  }

  /** Objects that this version cannot read, by key, each with the reason. */
  get unreadable(): ReadonlyMap<string, string> {
    return this.#mirror.unreadable;
  }

  get(name: string): KnownWorkload | undefined {
    return this.#byName.get(name);
  }

  values(): IterableIterator<KnownWorkload> {
    return this.#byName.values();
  }

  /** Names of changed workloads. */
  read(wake: () => void): FeedReader<string> {
    return this.#feed.read(wake);
  }

  async ready(): Promise<void> {
    await Promise.all([this.#mirror.ready(), this.ranges.ready()]);
  }

  /** Resolves when a write of this revision was seen. */
  reached(revision: number): Promise<void> {
    return this.#mirror.reached(revision);
  }

  close(): void {
    this.#mirror.close();
    this.ranges.close();
  }

  #changed(key: string): void {
    const name = key.slice(key.indexOf('/') + 1);
    const now = this.#mirror.get(key);
    // A name that moved to another namespace is written there before it vanishes here, in one transaction or two.
    const other = this.#byName.get(name);
    if (now !== undefined) this.#byName.set(name, now);
    else if (other !== undefined && `${other.namespace}/${other.name}` === key) this.#byName.delete(name);
    this.#feed.mark(name);
  }
}
