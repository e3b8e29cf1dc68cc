import { TokenBucket } from '../../core/token-bucket.ts';

/** Of one user, over all its connections: a machine that starts writes a few times, one that runs at most once in some seconds. */
const WRITES = { burst: 200, perSecond: 10 } as const;
/** A write counts once for so many bytes that it begins: etcd keeps every former value until it is compacted. */
const UNIT = 4096;
const WRITING = new Set(['KV/Put', 'KV/Txn', 'KV/DeleteRange', 'Lease/LeaseGrant', 'Lease/LeaseRevoke']);
const PREFIX = '/etcdserverpb.';

/**
 * How much each user may write: rights to one key alone do not keep anyone from filling etcd's history with it, and etcd has
 * no quota of a user.
 */
export class WriteLimit {
  readonly #now: () => number;
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether a message of a method may pass; what does not write always may. */
  admits(user: string, path: string, bytes: number): boolean {
    if (!WRITING.has(path.slice(PREFIX.length))) return true;
    const bucket = this.#buckets.get(user) ?? new TokenBucket({ ...WRITES, now: this.#now });
    this.#buckets.set(user, bucket);
    if (!bucket.take()) return false;
    bucket.spend(Math.floor(bytes / UNIT));
    return true;
  }

  /** A user has no connection any more. What it has spent is kept while that matters: to come back costs it nothing. */
  left(user: string): void {
    if (this.#buckets.get(user)?.full === true) this.#buckets.delete(user);
  }

  /** Users that are remembered. */
  get size(): number {
    return this.#buckets.size;
  }
}
