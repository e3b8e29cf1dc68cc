import type { PrefixWatch, Store } from '../../kvstore/store.ts';
import { IDENTITIES_PREFIX, type IdentityKey, readIdentityKey } from './identity-keys.ts';

export interface Master {
  readonly labels: string;
  readonly revision: number;
}

export type IdentityChange = (change: { readonly labels: string; readonly id: number | undefined }) => void;

/**
 * Masters, users and locks of the allocator in one watch, which tells changes in the order of revisions: whoever sees
 * its own lock here has seen everything that was written before it, too.
 */
export class IdentityMirror {
  readonly #masters = new Map<number, Master>();
  readonly #numbers = new Map<string, Set<number>>();
  /** By labels and suffix. */
  readonly #users = new Map<string, Map<string, number>>();
  /** By path and holder: the revision, which orders those that wait. */
  readonly #locks = new Map<string, Map<string, number>>();
  /** When the last user of these labels went, monotonic milliseconds. */
  readonly #abandoned = new Map<string, number>();
  readonly #waiting = new Set<() => void>();
  readonly #watch: PrefixWatch;
  readonly #onChange: IdentityChange;
  #present: Set<string> | undefined;
  #listed = false;

  constructor(store: Pick<Store, 'watchPrefix'>, onChange: IdentityChange) {
    this.#onChange = onChange;
    this.#watch = store.watchPrefix(IDENTITIES_PREFIX, {
      listing: () => {
        this.#present = new Set();
      },
      put: (key, value, revision) => {
        this.#present?.add(key);
        const read = readIdentityKey(key);
        if (read !== undefined) this.#put(read, { value, revision });
      },
      remove: (key) => {
        const read = readIdentityKey(key);
        if (read !== undefined) this.#remove(read);
      },
      listed: () => this.#sweep(),
    });
  }

  get listed(): boolean {
    return this.#listed;
  }

  get size(): number {
    return this.#masters.size;
  }

  master(id: number): Master | undefined {
    return this.#masters.get(id);
  }

  masters(): IterableIterator<[number, Master]> {
    return this.#masters.entries();
  }

  /** Who uses these labels, by suffix, and under which number. */
  users(labels: string): ReadonlyMap<string, number> {
    return this.#users.get(labels) ?? NONE;
  }

  /** Whether nobody uses these labels, nor has since then. Monotonic milliseconds. */
  isUnusedSince(labels: string, since: number): boolean {
    return !this.#users.has(labels) && (this.#abandoned.get(labels) ?? 0) <= since;
  }

  /** The number of these labels: that of its users, else the lowest master. */
  numberOf(labels: string): number | undefined {
    const used = [...this.users(labels).values()].filter(Number.isFinite);
    const numbers = used.length > 0 ? used : [...(this.#numbers.get(labels) ?? [])];
    return numbers.length === 0 ? undefined : Math.min(...numbers);
  }

  locks(): Iterable<readonly [path: string, holder: string, revision: number]> {
    const all: (readonly [string, string, number])[] = [];
    for (const [path, holders] of this.#locks) for (const [holder, at] of holders) all.push([path, holder, at]);
    return all;
  }

  /** Whether our lock was seen and nobody who waits was there before. */
  holds(path: string, own: { readonly holder: string; readonly revision: number }): boolean {
    const holders = this.#locks.get(path);
    if (this.#present !== undefined || holders?.get(own.holder) !== own.revision) return false;
    for (const revision of holders.values()) if (revision < own.revision) return false;
    return true;
  }

  /** Resolves when the condition holds; false when it did not in time, or when the signal aborted. */
  async until(
    condition: () => boolean,
    options: { readonly ms: number; readonly signal?: AbortSignal },
  ): Promise<boolean> {
    if (condition()) return true;
    const { ms, signal } = options;
    return await new Promise((resolve) => {
      const done = (result: boolean): void => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        signal?.removeEventListener('abort', stop);
        resolve(result);
      };
      const look = (): void => {
        if (condition()) done(true);
      };
      const stop = (): void => done(false);
      const timer = setTimeout(stop, ms);
      this.#waiting.add(look);
      signal?.addEventListener('abort', stop, { once: true });
      if (signal?.aborted === true) stop();
    });
  }

  close(): void {
    this.#watch.close();
  }

  #put(key: IdentityKey, { value, revision }: { readonly value: Buffer; readonly revision: number }): void {
    if (key.kind === 'master') this.#putMaster(key.id, { labels: value.toString('utf8'), revision });
    else if (key.kind === 'user') this.#putUser(key, value.toString('latin1'));
    else {
      inner(this.#locks, key.path).set(key.holder, revision);
      this.#wake();
    }
  }

  #putMaster(id: number, master: Master): void {
    const before = this.#masters.get(id);
    if (before !== undefined && before.labels !== master.labels) this.#forgetNumber(before.labels, id);
    this.#masters.set(id, master);
    const numbers = this.#numbers.get(master.labels) ?? new Set();
    this.#numbers.set(master.labels, numbers.add(id));
    if (before !== undefined && before.labels !== master.labels) this.#onChange({ labels: before.labels, id });
    this.#onChange({ labels: master.labels, id });
    this.#wake();
  }

  #putUser({ labels, suffix }: { labels: string; suffix: string }, text: string): void {
    // A value that is no number names none: the user is there, and cannot be followed.
    inner(this.#users, labels).set(suffix, /^[1-9][0-9]{0,9}$/.test(text) ? Number(text) : Number.POSITIVE_INFINITY);
    this.#onChange({ labels, id: undefined });
    this.#wake();
  }

  #remove(key: IdentityKey): void {
    if (key.kind === 'master') {
      const before = this.#masters.get(key.id);
      if (before === undefined) return;
      this.#masters.delete(key.id);
      this.#forgetNumber(before.labels, key.id);
      this.#onChange({ labels: before.labels, id: key.id });
    } else if (key.kind === 'user') {
      drop(this.#users, key.labels, key.suffix);
      if (!this.#users.has(key.labels)) this.#abandoned.set(key.labels, performance.now());
      this.#onChange({ labels: key.labels, id: undefined });
    } else drop(this.#locks, key.path, key.holder);
    this.#wake();
  }

  #forgetNumber(labels: string, id: number): void {
    const numbers = this.#numbers.get(labels);
    if (numbers?.delete(id) !== true || numbers.size > 0) return;
    this.#numbers.delete(labels);
    this.#abandoned.delete(labels);
  }

  #sweep(): void {
    const present = this.#present ?? new Set<string>();
    this.#present = undefined;
    this.#listed = true;
    for (const id of [...this.#masters.keys()]) if (!present.has(`id/${id}`)) this.#remove({ kind: 'master', id });
    for (const [labels, users] of [...this.#users])
      for (const suffix of [...users.keys()])
        if (!present.has(`value/${labels}/${suffix}`)) this.#remove({ kind: 'user', labels, suffix });
    for (const [path, holders] of [...this.#locks])
      for (const holder of [...holders.keys()])
        if (!present.has(`locks/${path}/${holder}`)) this.#remove({ kind: 'lock', path, holder });
    this.#wake();
  }

  #wake(): void {
    for (const look of this.#waiting) look();
  }
}

const NONE: ReadonlyMap<string, number> = new Map();

function inner<V>(map: Map<string, Map<string, V>>, key: string): Map<string, V> {
  const known = map.get(key) ?? new Map<string, V>();
  map.set(key, known);
  return known;
}

function drop<V>(map: Map<string, Map<string, V>>, key: string, name: string): void {
  const known = map.get(key);
  if (known?.delete(name) === true && known.size === 0) map.delete(key);
}
