import { type Address, formatAddress, parseAddress } from '../../core/ip.ts';

export interface NameCacheOptions {
  /** A lifetime below that is raised to it, seconds (`tofqdns-min-ttl`). */
  readonly minTtl: number;
  /** Addresses of one name; the ones that end first go (`tofqdns-endpoint-max-ip-per-hostname`, 50). */
  readonly maxAddresses?: number;
  /** Names; the ones that were not asked for the longest go. */
  readonly maxNames?: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** The addresses of a name are others now. */
  readonly onChange: (name: string, addresses: readonly Address[]) => void;
}

interface Held {
  readonly address: Address;
  /** Milliseconds since the epoch. */
  until: number;
}

/** One name for people and for the disk. */
export interface NameRecord {
  readonly name: string;
  readonly addresses: readonly { readonly address: string; readonly until: number }[];
}

const MAX_ADDRESSES = 50;
const MAX_NAMES = 10_000;
const MAX_TTL = 7 * 24 * 3600;

/**
 * Names that the machine has resolved, with the addresses that they had (policy specification 7.10.5). An address stays
 * for its lifetime, and beyond it as long as a connection to it lives.
 */
export class NameCache {
  readonly #options: NameCacheOptions;
  /** In the order of the last answer. */
  readonly #names = new Map<string, Map<string, Held>>();

  constructor(options: NameCacheOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#names.size;
  }

  /** An answer was seen. @returns whether the addresses of the name changed */
  learn(name: string, answers: readonly { readonly address: Address; readonly ttl: number }[]): boolean {
    if (answers.length === 0) return false;
    const { now, minTtl, maxNames = MAX_NAMES } = this.#options;
    const held = this.#names.get(name) ?? new Map<string, Held>();
    this.#names.delete(name);
    this.#names.set(name, held);
    let changed = false;
    for (const { address, ttl } of answers) {
      const text = formatAddress(address);
      const until = now() + Math.min(MAX_TTL, Math.max(ttl, minTtl)) * 1000;
      const before = held.get(text);
      changed ||= before === undefined;
      held.set(text, { address, until: Math.max(until, before?.until ?? 0) });
    }
    changed = this.#shrink(held) || changed;
    if (changed) this.#tell(name);
    for (const oldest of this.#names.keys()) {
      if (this.#names.size <= maxNames) break;
      this.#names.delete(oldest);
      this.#options.onChange(oldest, []);
    }
    return changed;
  }

  /** Whether some address has outlived its answer. */
  get due(): boolean {
    const now = this.#options.now();
    for (const held of this.#names.values()) for (const { until } of held.values()) if (until <= now) return true;
    return false;
  }

  /** When the first address outlives its answer, milliseconds since the epoch; in the past for one that is kept. */
  get nextExpiry(): number | undefined {
    let next: number | undefined;
    for (const held of this.#names.values()) {
      for (const { until } of held.values()) if (next === undefined || until < next) next = until;
    }
    return next;
  }

  /** Forgets what has outlived its answer, but for addresses that connections are open to. */
  expire(isLive: (address: Address) => boolean): void {
    const now = this.#options.now();
    for (const [name, held] of [...this.#names]) {
      let changed = false;
      for (const [text, { address, until }] of held) {
        if (until > now || isLive(address)) continue;
        held.delete(text);
        changed = true;
      }
      if (held.size === 0) this.#names.delete(name);
      if (changed) this.#tell(name);
    }
  }

  list(): NameRecord[] {
    return [...this.#names].map(([name, held]) => ({
      name,
      addresses: [...held].map(([address, { until }]) => ({ address, until })),
    }));
  }

  /** Takes back what `list` gave to an earlier run; records that make no sense are left out. */
  restore(records: readonly NameRecord[]): void {
    for (const { name, addresses } of records) {
      const now = this.#options.now();
      const answers = addresses.flatMap(({ address, until }) => {
        const parsed = typeof address === 'string' ? parseAddress(address) : undefined;
        return parsed === undefined || !Number.isFinite(until) || until <= now
          ? []
          : [{ address: parsed, ttl: (until - now) / 1000 }];
      });
      if (typeof name === 'string') this.learn(name, answers);
    }
  }

  #shrink(held: Map<string, Held>): boolean {
    const { maxAddresses = MAX_ADDRESSES } = this.#options;
    if (held.size <= maxAddresses) return false;
    const oldest = [...held].sort(([, a], [, b]) => a.until - b.until).slice(0, held.size - maxAddresses);
    for (const [text] of oldest) held.delete(text);
    return true;
  }

  #tell(name: string): void {
    this.#options.onChange(
      name,
      [...(this.#names.get(name)?.values() ?? [])].map(({ address }) => address),
    );
  }
}
