import { Feed, type FeedReader } from '../../core/feed.ts';
import type { Store } from '../../kvstore/store.ts';
import { Mirror } from '../workloads/mirror.ts';

/** `<hub>/<machine>`: that hub has a connection of that machine. Under the lease of the hub. */
export const CONNECTIONS_PREFIX = 'mesh-agent/v1/connections/';

/** Which machines have a connection to any hub, as the hubs tell each other. */
export class ConnectionBook {
  readonly #mirror: Mirror<true>;
  /** By machine: the hubs that tell of it. */
  readonly #hubs = new Map<string, Set<string>>();
  readonly #changed = new Feed<string>();

  constructor(store: Pick<Store, 'watchPrefix'>) {
    this.#mirror = new Mirror<true>({
      store,
      prefix: CONNECTIONS_PREFIX,
      // That the key is there says it all.
      decode: () => true,
      onChange: (key) => this.#changedKey(key),
    });
  }

  /** Machines with a connection. */
  get size(): number {
    return this.#hubs.size;
  }

  isConnected(machine: string): boolean {
    return this.#hubs.has(machine);
  }

  /** Machines that came or went. */
  read(wake: () => void): FeedReader<string> {
    return this.#changed.read(wake);
  }

  ready(): Promise<void> {
    return this.#mirror.ready();
  }

  close(): void {
    this.#mirror.close();
  }

  #changedKey(key: string): void {
    const slash = key.indexOf('/');
    const [hub, machine] = [key.slice(0, slash), key.slice(slash + 1)];
    const hubs = this.#hubs.get(machine) ?? new Set();
    if (this.#mirror.get(key) === true) hubs.add(hub);
    else hubs.delete(hub);
    if (hubs.size === 0) this.#hubs.delete(machine);
    else this.#hubs.set(machine, hubs);
    this.#changed.mark(machine);
  }
}
