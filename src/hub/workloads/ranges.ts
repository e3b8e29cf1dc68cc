import { type Family, formatPrefix, type Prefix, parsePrefix } from '../../core/ip.ts';
import { BadValue, parseObject, text } from '../../kvstore/codec/json.ts';
import type { Store } from '../../kvstore/store.ts';
import { Mirror } from './mirror.ts';
import { PrefixIndex } from './prefix-index.ts';

export const RANGES_PREFIX = 'mesh-agent/v1/ranges/';
/**
 * Written last in every transaction that changes ranges, and compared in every one that takes some: two that overlap
 * have different keys, so the keys alone would not keep them apart. It sorts behind all prefixes.
 */
export const RANGES_GUARD = `${RANGES_PREFIX}guard`;
const GUARD = 'guard';

export interface RangeOwner {
  readonly workload: string;
  readonly uid: string;
}

export function rangeKey(prefix: Prefix): string {
  return RANGES_PREFIX + formatPrefix(prefix);
}

export function encodeRangeOwner(owner: RangeOwner): string {
  return JSON.stringify(owner);
}

/** Which ranges are taken, by whom, as of a revision that `guard` names. */
export class Ranges {
  readonly index = new PrefixIndex();
  readonly #mirror: Mirror<{ readonly owner: string; readonly prefix: Prefix } | number>;
  readonly #held = new Map<string, { readonly owner: string; readonly prefix: Prefix }>();

  constructor(store: Pick<Store, 'watchPrefix'>) {
    this.#mirror = new Mirror({
      store,
      prefix: RANGES_PREFIX,
      decode: (key, value, revision) => (key === GUARD ? revision : decodeRange(key, value)),
      onChange: (key) => this.#changed(key),
    });
  }

  get size(): number {
    return this.#held.size;
  }

  /** Modification revision of the guard: the ranges that are known here are those of that revision. */
  get guard(): number {
    const found = this.#mirror.get(GUARD);
    return typeof found === 'number' ? found : 0;
  }

  ready(): Promise<void> {
    return this.#mirror.ready();
  }

  reached(revision: number): Promise<void> {
    return this.#mirror.reached(revision);
  }

  close(): void {
    this.#mirror.close();
  }

  #changed(key: string): void {
    if (key === GUARD) return;
    const before = this.#held.get(key);
    const now = this.#mirror.get(key);
    if (before !== undefined) this.index.remove(before.prefix, before.owner);
    if (now === undefined || typeof now === 'number') this.#held.delete(key);
    else {
      this.#held.set(key, now);
      this.index.add(now.prefix, now.owner);
    }
  }
}

function decodeRange(key: string, value: Buffer): { readonly owner: string; readonly prefix: Prefix } {
  const prefix = parsePrefix(key);
  if (prefix === undefined || formatPrefix(prefix) !== key) throw new BadValue('the key is no canonical prefix');
  return { owner: text(parseObject(value), 'workload'), prefix };
}

/** Of one machine, when nothing else was asked for. */
export const MACHINE_BITS: Readonly<Record<Family, number>> = { 4: 30, 6: 126 };
