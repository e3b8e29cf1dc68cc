import { MeshError, messageOf } from '../../core/errors.ts';
import type { PrefixWatch, Store } from '../../kvstore/store.ts';

export interface MirrorOptions<T> {
  readonly store: Pick<Store, 'watchPrefix'>;
  readonly prefix: string;
  /** What it throws makes the value unreadable: the one before stays. */
  decode(key: string, value: Buffer, revision: number): T;
  /** Another value, or none, or another reason why it cannot be read. */
  onChange?(key: string): void;
  onListed?(): void;
}

/** Everything under a prefix of the store, decoded and kept up to date. Facts stay while the store is away. */
export class Mirror<T> {
  readonly #options: MirrorOptions<T>;
  readonly #values = new Map<string, T>();
  readonly #unreadable = new Map<string, string>();
  readonly #waiting = new Set<() => void>();
  readonly #watch: PrefixWatch;
  #present: Set<string> | undefined;
  #listed = false;
  #revision = 0;

  constructor(options: MirrorOptions<T>) {
    this.#options = options;
    this.#watch = options.store.watchPrefix(options.prefix, {
      listing: () => {
        this.#present = new Set();
        // Another data set may start at a lower one.
        this.#revision = 0;
      },
      put: (key, value, revision) => this.#put(key, value, revision),
      remove: (key) => this.#remove(key),
      listed: () => this.#complete(),
    });
  }

  get size(): number {
    return this.#values.size;
  }

  get listed(): boolean {
    return this.#listed;
  }

  get(key: string): T | undefined {
    return this.#values.get(key);
  }

  entries(): IterableIterator<[string, T]> {
    return this.#values.entries();
  }

  /** Keys whose value cannot be read, each with the reason. */
  get unreadable(): ReadonlyMap<string, string> {
    return this.#unreadable;
  }

  /** Resolves when the first list is complete. @throws MeshError KVS-TIMEOUT */
  ready(timeoutMs = 15_000): Promise<void> {
    return this.#until(() => this.#listed, timeoutMs);
  }

  /** Resolves when a change of this revision under this prefix was seen. @throws MeshError KVS-TIMEOUT */
  reached(revision: number, timeoutMs = 15_000): Promise<void> {
    return this.#until(() => this.#listed && this.#present === undefined && this.#revision >= revision, timeoutMs);
  }

  close(): void {
    this.#watch.close();
  }

  #put(key: string, value: Buffer, revision: number): void {
    this.#present?.add(key);
    try {
      this.#values.set(key, this.#options.decode(key, value, revision));
      this.#unreadable.delete(key);
    } catch (error) {
      this.#unreadable.set(key, messageOf(error));
    }
    this.#revision = Math.max(this.#revision, revision);
    this.#options.onChange?.(key);
    this.#look();
  }

  #remove(key: string): void {
    const known = this.#values.delete(key);
    if (this.#unreadable.delete(key) || known) this.#options.onChange?.(key);
  }

  #complete(): void {
    const present = this.#present;
    this.#present = undefined;
    for (const key of [...this.#values.keys(), ...this.#unreadable.keys()])
      if (present?.has(key) !== true) this.#remove(key);
    this.#listed = true;
    this.#options.onListed?.();
    this.#look();
  }

  #look(): void {
    for (const look of this.#waiting) look();
  }

  #until(condition: () => boolean, timeoutMs: number): Promise<void> {
    if (condition()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(look);
      };
      const look = (): void => {
        if (!condition()) return;
        done();
        resolve();
      };
      this.#waiting.add(look);
      const timer = setTimeout(() => {
        done();
        const why = this.#watch.lastError ?? 'it was not listed in time';
        reject(new MeshError('KVS-TIMEOUT', why, { place: this.#options.prefix }));
      }, timeoutMs);
    });
  }
}
