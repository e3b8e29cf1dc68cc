import { createHash } from 'node:crypto';

/** A value of a store that was refused at the door: what was accepted before under its key stays in force. */
export interface Quarantined {
  readonly cluster: string;
  readonly key: string;
  readonly reason: string;
  readonly since: number;
}

/** Details beyond this many are only counted, and nobody is told: a store full of garbage must not fill memory or log. */
const MAX_DETAILS = 1000;
/** Beyond this many per cluster they are not even counted. */
const MAX_KEYS = 100_000;
const MAX_KEY = 512;
const MAX_REASON = 300;

/** Refused values by cluster and key. */
export class Quarantine {
  readonly #details = new Map<string, Quarantined>();
  /** Keys of a cluster, each with the generation of the list that saw it last. */
  readonly #keys = new Map<string, Map<string, number>>();
  readonly #onRefused: (entry: Quarantined) => void;
  #size = 0;

  /** `onRefused` hears of a key that is refused once, not again before it was good or gone. */
  constructor(onRefused: (entry: Quarantined) => void) {
    this.#onRefused = onRefused;
  }

  get size(): number {
    return this.#size;
  }

  countOf(cluster: string): number {
    return this.#keys.get(cluster)?.size ?? 0;
  }

  /** The oldest details. */
  list(): readonly Quarantined[] {
    return [...this.#details.values()];
  }

  /** `generation` is the one of the list that is under way, or of the last one. */
  refuse(cluster: string, key: string, reason: string, generation = 0): void {
    const keys = this.#keys.get(cluster) ?? new Map<string, number>();
    this.#keys.set(cluster, keys);
    const short = shortened(key);
    const known = keys.has(short);
    if (!known && keys.size >= MAX_KEYS) return;
    keys.set(short, generation);
    if (!known) this.#size++;
    const name = nameOf(cluster, short);
    const before = this.#details.get(name);
    if (before === undefined && (known || this.#details.size >= MAX_DETAILS)) return;
    const text = copied(reason, MAX_REASON);
    if (before?.reason === text) return;
    const entry = { cluster, key: short, reason: text, since: before?.since ?? Date.now() };
    this.#details.set(name, entry);
    if (before === undefined) this.#onRefused(entry);
  }

  /** The key has a good value now, or is gone. */
  clear(cluster: string, key: string): void {
    if (this.#size > 0) this.#clear(cluster, shortened(key));
  }

  /** Everything below a prefix of keys is gone; with a generation, everything that its list did not refuse again. */
  clearBelow(cluster: string, prefix: string, generation?: number): void {
    for (const [key, seen] of this.#keys.get(cluster) ?? [])
      if (seen !== generation && key.startsWith(prefix)) this.#clear(cluster, key);
  }

  #clear(cluster: string, short: string): void {
    const keys = this.#keys.get(cluster);
    if (keys?.delete(short) !== true) return;
    this.#size--;
    if (keys.size === 0) this.#keys.delete(cluster);
    this.#details.delete(nameOf(cluster, short));
  }
}

const nameOf = (cluster: string, key: string): string => `${cluster} ${key}`;

/** A key may be as long as a value; the beginning tells where it is, the digest which one it is. */
function shortened(key: string): string {
  if (key.length <= MAX_KEY) return key;
  return `${copied(key, MAX_KEY)}~${createHash('sha256').update(key).digest('hex').slice(0, 16)}`;
}

/** A slice of a string keeps the whole one in memory; this does not. */
function copied(text: string, length: number): string {
  return text.length <= length ? text : `${Buffer.from(text.slice(0, length)).toString()}…`;
}
