import { MeshError } from '../../core/errors.ts';
import { JobGroup } from '../../core/job.ts';
import type { Connection } from '../../kvstore/connection.ts';
import { Lease } from '../../kvstore/lease.ts';
import { LeasePool, type Slot } from '../../kvstore/lease-pool.ts';
import type { Session } from '../../kvstore/session.ts';

const LOCK_SECONDS = 25;
const USER_SECONDS = 900;

/** Leases of one allocator, over whatever connection there is: one for its locks, and those of its users. */
export class AllocatorLeases {
  readonly #jobs = new JobGroup(() => undefined);
  readonly #pool: LeasePool;
  readonly #unfollow: () => void;
  #connection: Connection | undefined;
  #lock: Lease | undefined;
  #granting: Promise<Lease> | undefined;

  constructor(session: Pick<Session, 'follow'>, onLost: (slot: Slot | undefined) => void) {
    this.#pool = new LeasePool(USER_SECONDS, this.#jobs, onLost);
    this.#unfollow = session.follow({
      connect: (connection) => {
        this.#connection = connection;
        this.#pool.connect(connection);
        this.#lock?.connect(connection, this.#jobs);
      },
      disconnect: () => {
        this.#connection = undefined;
        this.#pool.disconnect();
        this.#lock?.disconnect();
      },
      forget: () => {
        this.#pool.forget();
        this.#lock?.disconnect();
        this.#lock = undefined;
        onLost(undefined);
      },
    });
  }

  /** Of a user key. @throws MeshError KVS-* */
  user(): Promise<Slot> {
    return this.#pool.take(this.#connected());
  }

  /** Hexadecimal: locks under it end with us. @throws MeshError KVS-* */
  async lock(): Promise<string> {
    if (this.#lock === undefined) {
      this.#granting ??= this.#grant();
      await this.#granting;
    }
    return this.#lock?.id.toString(16) ?? '0';
  }

  /** A lease that nobody keeps alive: what is under it vanishes by itself. @throws MeshError KVS-* */
  async passing(seconds: number): Promise<string> {
    const lease = await Lease.grant(this.#connected(), seconds, () => undefined);
    return lease.id.toString(16);
  }

  /** A lease that the store did not know. */
  lose(slot?: Slot): void {
    if (slot === undefined) this.#lock?.lose();
    else slot.lease.lose();
  }

  /** Locks end at once; users live on for the time of their leases. */
  async close(): Promise<void> {
    const [lock, connection] = [this.#lock, this.#connection];
    this.#unfollow();
    this.#pool.disconnect();
    if (lock !== undefined && connection !== undefined) await lock.revoke(connection);
    await this.#jobs.stop();
  }

  #connected(): Connection {
    if (this.#connection === undefined) throw new MeshError('KVS-LOST', 'the store is not connected');
    return this.#connection;
  }

  async #grant(): Promise<Lease> {
    try {
      const connection = this.#connected();
      const lease = await Lease.grant(connection, LOCK_SECONDS, (lost) => {
        if (this.#lock === lost) this.#lock = undefined;
      });
      this.#lock = lease;
      if (this.#connection === connection) lease.connect(connection, this.#jobs);
      return lease;
    } finally {
      this.#granting = undefined;
    }
  }
}
