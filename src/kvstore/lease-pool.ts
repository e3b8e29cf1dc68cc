import type { JobGroup } from '../core/job.ts';
import type { Connection } from './connection.ts';
import { Lease } from './lease.ts';

/** A lease, and how many keys of ours are under it. */
export interface Slot {
  /** Hexadecimal. */
  readonly id: string;
  readonly lease: Lease;
  count: number;
}

/** Cilium's figure: an expiry takes no more than so many keys at once, and no transaction of etcd grows with it. */
const MAX_KEYS = 1000;

/** Leases, as many as the keys need, each kept alive over whatever connection there is. */
export class LeasePool {
  readonly #ttlSeconds: number;
  readonly #jobs: JobGroup;
  readonly #onLost: (slot: Slot) => void;
  readonly #slots = new Map<string, Slot>();

  constructor(ttlSeconds: number, jobs: JobGroup, onLost: (slot: Slot) => void) {
    this.#ttlSeconds = ttlSeconds;
    this.#jobs = jobs;
    this.#onLost = onLost;
  }

  get size(): number {
    return this.#slots.size;
  }

  connect(connection: Connection): void {
    for (const { lease } of this.#slots.values()) lease.connect(connection, this.#jobs);
  }

  disconnect(): void {
    for (const { lease } of this.#slots.values()) lease.disconnect();
  }

  /** Another data set knows none of them. */
  forget(): void {
    this.disconnect();
    this.#slots.clear();
  }

  /** A place for one more key. */
  async take(connection: Connection): Promise<Slot> {
    let slot = [...this.#slots.values()].find(({ count }) => count < MAX_KEYS);
    slot ??= this.#add(await Lease.grant(connection, this.#ttlSeconds, (lost) => this.#lost(lost)), connection);
    slot.count++;
    return slot;
  }

  /** The place of a key that is under this lease already. */
  adopt(id: string, connection: Connection): Slot {
    const known = this.#slots.get(id);
    const slot =
      known ??
      this.#add(
        Lease.adopt(BigInt(`0x${id}`), this.#ttlSeconds, (lost) => this.#lost(lost)),
        connection,
      );
    slot.count++;
    return slot;
  }

  #add(lease: Lease, connection: Connection): Slot {
    const slot = { id: lease.id.toString(16), lease, count: 0 };
    this.#slots.set(slot.id, slot);
    lease.connect(connection, this.#jobs);
    return slot;
  }

  #lost(lease: Lease): void {
    const id = lease.id.toString(16);
    const slot = this.#slots.get(id);
    if (slot?.lease !== lease) return;
    this.#slots.delete(id);
    this.#onLost(slot);
  }
}
