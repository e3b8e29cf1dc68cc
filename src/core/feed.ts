/**
 * A coalescing change feed: writers mark keys, each reader drains the keys marked since its last drain, once each, in
 * no promised order. It carries keys, never values: a reader looks at the present facts, so that late, repeated and
 * squashed updates give the same result.
 */
export interface FeedReader<K> {
  /** Keys marked since the last drain. */
  drain(): Set<K>;
  readonly pending: boolean;
  close(): void;
}

export class Feed<K> {
  #readers = new Set<{ keys: Set<K>; wake: () => void }>();

  /** Whether anybody reads it: a mark is lost on nobody. */
  get heard(): boolean {
    return this.#readers.size > 0;
  }

  mark(key: K): void {
    for (const reader of this.#readers) {
      const first = reader.keys.size === 0;
      reader.keys.add(key);
      if (first) reader.wake();
    }
  }

  /** `wake` is called when the reader's set goes from empty to not empty; it must only schedule, never work. */
  read(wake: () => void): FeedReader<K> {
    const reader = { keys: new Set<K>(), wake };
    this.#readers.add(reader);
    const readers = this.#readers;
    return {
      drain() {
        const keys = reader.keys;
        reader.keys = new Set();
        return keys;
      },
      get pending() {
        return reader.keys.size > 0;
      },
      close() {
        readers.delete(reader);
      },
    };
  }
}
