import { type BucketOptions, TokenBucket } from '../../core/token-bucket.ts';

/**
 * One bucket for each address, for so many addresses: the one that was not seen for longest makes room. IPv6 addresses count
 * by their /64, since that is what one machine has.
 */
export class AddressBuckets {
  readonly #options: BucketOptions;
  readonly #max: number;
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(options: BucketOptions & { readonly addresses?: number }) {
    this.#options = options;
    this.#max = options.addresses ?? 10_000;
  }

  get size(): number {
    return this.#buckets.size;
  }

  take(address: string): boolean {
    return this.#of(address).take();
  }

  empty(address: string): boolean {
    const bucket = this.#buckets.get(addressGroup(address));
    return bucket?.empty ?? false;
  }

  #of(address: string): TokenBucket {
    const group = addressGroup(address);
    const bucket = this.#buckets.get(group) ?? new TokenBucket(this.#options);
    // The order of the map is that of the last use.
    this.#buckets.delete(group);
    this.#buckets.set(group, bucket);
    if (this.#buckets.size > this.#max) {
      const oldest = this.#buckets.keys().next().value;
      if (oldest !== undefined) this.#buckets.delete(oldest);
    }
    return bucket;
  }
}

/** What one machine can choose freely counts as one. */
export function addressGroup(address: string): string {
  if (!address.includes(':')) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1] !== undefined) return mapped[1];
  const [head = '', tail = ''] = (address.split('%')[0] ?? '').split('::', 2);
  const before = head === '' ? [] : head.split(':');
  const after = tail === '' ? [] : tail.split(':');
  const missing = address.includes('::') ? Math.max(0, 8 - before.length - after.length) : 0;
  const groups = [...before, ...Array.from({ length: missing }, () => '0'), ...after];
  return groups
    .slice(0, 4)
    .map((group) => group.toLowerCase().replace(/^0+(?=.)/, ''))
    .join(':');
}
