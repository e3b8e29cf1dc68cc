/** A value of a store that was refused at the door: what was accepted before under its key stays in force. */
export interface Quarantined {
  readonly cluster: string;
  readonly key: string;
  readonly reason: string;
  readonly since: number;
}

/** Details beyond this many are only counted: a store full of garbage must not fill our memory. */
const MAX_DETAILS = 1000;

export class Quarantine {
  readonly #details = new Map<string, Quarantined>();
  readonly #keys = new Map<string, Set<string>>();
  readonly #onChange: (entry: Quarantined) => void;

  /** `onRefused` hears of each refusal once, not again while the reason stays. */
  constructor(onRefused: (entry: Quarantined) => void) {
    this.#onChange = onRefused;
  }

  get size(): number {
    let size = 0;
    for (const keys of this.#keys.values()) size += keys.size;
    return size;
  }

  countOf(cluster: string): number {
    return this.#keys.get(cluster)?.size ?? 0;
  }

  /** The oldest details. */
  list(): readonly Quarantined[] {
    return [...this.#details.values()];
  }

  refuse(cluster: string, key: string, reason: string): void {
    const keys = this.#keys.get(cluster) ?? new Set<string>();
    this.#keys.set(cluster, keys);
    const name = `${cluster} ${key}`;
    const before = this.#details.get(name);
    if (before?.reason === reason || (before === undefined && keys.has(key))) return;
    keys.add(key);
    const entry = { cluster, key, reason, since: before?.since ?? Date.now() };
    if (before !== undefined || this.#details.size < MAX_DETAILS) this.#details.set(name, entry);
    this.#onChange(entry);
  }

  /** The key has a good value now, or is gone. */
  clear(cluster: string, key: string): void {
    if (this.#keys.size === 0 || this.#keys.get(cluster)?.delete(key) !== true) return;
    this.#details.delete(`${cluster} ${key}`);
  }

  /** Everything below a prefix of keys is gone. */
  clearBelow(cluster: string, prefix: string): void {
    for (const key of this.#keys.get(cluster) ?? []) if (key.startsWith(prefix)) this.clear(cluster, key);
  }
}
