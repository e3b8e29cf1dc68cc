import type { FeedReader } from '../../core/feed.ts';
import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import { machineOf } from '../etcd/machine-access.ts';
import type { ConnectedUsers } from '../guard/connected-users.ts';
import type { HubStore } from '../hub-store.ts';
import { CONNECTIONS_PREFIX } from './connection-book.ts';

export interface ConnectionTellerOptions {
  readonly store: Pick<HubStore, 'leasedKeys'>;
  /** Names this hub, unlike any other process. */
  readonly hub: string;
  readonly users: ConnectedUsers;
}

/** What a hub told is over so long after it died. */
const TTL_SECONDS = 30;
/** Whoever only connects anew is not told to be gone. */
const LINGER_MS = 2_000;

/**
 * Tells all hubs which machines have a connection to this one: one key for each, written when a machine comes and removed when it
 * is gone; nothing at rest.
 */
export class ConnectionTeller {
  readonly #users: ConnectedUsers;
  readonly #prefix: string;
  readonly #keys: LeasedKeys;
  readonly #reader: FeedReader<string>;
  readonly #leaving = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  constructor({ store, hub, users }: ConnectionTellerOptions) {
    this.#users = users;
    this.#prefix = `${CONNECTIONS_PREFIX}${hub}/`;
    this.#keys = store.leasedKeys({ prefixes: [this.#prefix], ttlSeconds: TTL_SECONDS });
    this.#reader = users.read(() => queueMicrotask(() => this.#look(this.#reader.drain())));
    this.#look(users.all);
  }

  /** Machines that this hub tells of. */
  get size(): number {
    return this.#keys.size;
  }

  get lastError(): string | undefined {
    return this.#keys.lastError;
  }

  /** What was told is left to its lease: the machines of a hub that stops are on their way to another. */
  async close(): Promise<void> {
    this.#reader.close();
    clearTimeout(this.#timer);
    await this.#keys.close({ keep: true });
  }

  #look(users: Iterable<string>): void {
    for (const user of users) {
      const machine = machineOf(user);
      if (machine === undefined) continue;
      if (this.#users.has(user)) this.#arrived(this.#prefix + machine);
      else this.#leaving.add(user);
    }
    if (this.#leaving.size > 0) this.#timer ??= setTimeout(() => this.#sweep(), LINGER_MS).unref();
  }

  #arrived(key: string): void {
    if (this.#keys.get(key) === undefined) this.#keys.set(key, JSON.stringify({ since: Date.now() }));
  }

  #sweep(): void {
    this.#timer = undefined;
    for (const user of this.#leaving) if (!this.#users.has(user)) this.#keys.remove(this.#prefix + machineOf(user));
    this.#leaving.clear();
  }
}
