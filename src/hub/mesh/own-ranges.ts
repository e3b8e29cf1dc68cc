import { type Prefix, parsePrefix } from '../../core/ip.ts';
import { BadValue } from '../../kvstore/codec/json.ts';
import { factPrefix } from '../../kvstore/paths.ts';
import type { Store } from '../../kvstore/store.ts';
import { FRONTENDS_PREFIX } from '../services/frontends.ts';
import { Mirror } from '../workloads/mirror.ts';
import { PrefixIndex } from '../workloads/prefix-index.ts';
import { RANGES_GUARD, RANGES_PREFIX } from '../workloads/ranges.ts';

export interface OwnRangesOptions {
  readonly store: Pick<Store, 'watchPrefix'>;
  readonly cluster: string;
  /** Of the configuration. */
  readonly pools: readonly string[];
  /** Something is ours that was not ours before: a key of `ip/v1`. */
  readonly onGained: (text: string) => void;
  readonly onLost: () => void;
}

type Owner = 'machine' | 'range' | 'service';

/** Everything that is the hub's own: its pools, the ranges of its workloads, the addresses of its machines and of services on them. */
export class OwnRanges {
  readonly index = new PrefixIndex();
  /** Pools and ranges, for people. */
  readonly #ranges = new Map<string, { readonly prefix: Prefix; readonly what: string }>();
  readonly #options: OwnRangesOptions;
  readonly #mirrors: readonly Mirror<Prefix>[];
  readonly #held = new Map<string, Prefix>();

  constructor(options: OwnRangesOptions) {
    const { cluster, pools } = options;
    this.#options = options;
    for (const pool of pools) {
      const prefix = parsePrefix(pool);
      if (prefix === undefined) continue;
      this.index.add(prefix, 'pool');
      this.#ranges.set(pool, { prefix, what: `pool ${pool} of the hub` });
    }
    this.#mirrors = [
      this.#mirror(factPrefix('endpoints', cluster, 'direct'), 'machine'),
      this.#mirror(RANGES_PREFIX, 'range'),
      this.#mirror(FRONTENDS_PREFIX, 'service'),
    ];
  }

  get ranges(): Iterable<{ readonly prefix: Prefix; readonly what: string }> {
    return this.#ranges.values();
  }

  async ready(): Promise<void> {
    await Promise.all(this.#mirrors.map((mirror) => mirror.ready()));
  }

  close(): void {
    for (const mirror of this.#mirrors) mirror.close();
  }

  #mirror(prefix: string, owner: Owner): Mirror<Prefix> {
    const guard = RANGES_GUARD.slice(RANGES_PREFIX.length);
    const mirror: Mirror<Prefix> = new Mirror({
      store: this.#options.store,
      prefix,
      decode(key) {
        const found = key === guard ? undefined : parsePrefix(key);
        if (found === undefined) throw new BadValue('no prefix');
        return found;
      },
      onChange: (key) => this.#changed(key, { owner, now: mirror.get(key) }),
    });
    return mirror;
  }

  #changed(key: string, { owner, now }: { readonly owner: Owner; readonly now: Prefix | undefined }): void {
    const name = `${owner} ${key}`;
    const before = this.#held.get(name);
    if (now !== undefined && before === undefined) {
      this.#held.set(name, now);
      const known = this.index.overlapping(now, (each) => each === 'pool') !== undefined;
      this.index.add(now, name);
      if (owner === 'range') this.#ranges.set(name, { prefix: now, what: `range ${key} of a workload of the hub` });
      if (!known) this.#options.onGained(key);
    } else if (now === undefined && before !== undefined) {
      this.#held.delete(name);
      this.#ranges.delete(name);
      this.index.remove(before, name);
      this.#options.onLost();
    }
  }
}
