/** Milliseconds. */
export interface ReadinessTiming {
  /** For a cluster that cannot be reached or has no configuration. */
  readonly perClusterReadyMs: number;
  /** For all, whatever they wait for. */
  readonly globalReadyMs: number;
}

interface Entry {
  readonly since: number;
  synced: boolean;
  disregarded: boolean;
}

/**
 * Whether the cache is as good as it can be (kvstore specification 5.4): every connected cluster is copied once, or cannot be
 * reached. A cluster that can be reached and does not complete holds it up until the overall limit.
 */
export class Readiness {
  readonly #timing: ReadinessTiming;
  readonly #now: () => number;
  readonly #clusters = new Map<string, Entry>();
  readonly #startedAt: number;
  #readyAt: number | undefined;

  constructor(timing: ReadinessTiming, now: () => number = () => performance.now()) {
    this.#timing = timing;
    this.#now = now;
    this.#startedAt = now();
  }

  /** Clusters that it waits for. */
  get waitingFor(): readonly string[] {
    const late = this.#now() - this.#startedAt > this.#timing.globalReadyMs;
    if (late) return [];
    return [...this.#clusters].filter(([, each]) => !each.synced && !each.disregarded).map(([name]) => name);
  }

  get ready(): boolean {
    return this.waitingFor.length === 0;
  }

  /** The first copies are under way. */
  get bootstrapping(): boolean {
    return !this.ready;
  }

  /** From the start until all was ready for the first time, seconds. */
  get bootstrapSeconds(): number | undefined {
    if (this.#readyAt === undefined && this.#clusters.size > 0 && this.ready) this.#readyAt = this.#now();
    return this.#readyAt === undefined ? undefined : (this.#readyAt - this.#startedAt) / 1000;
  }

  add(name: string): void {
    if (!this.#clusters.has(name)) this.#clusters.set(name, { since: this.#now(), synced: false, disregarded: false });
  }

  forget(name: string): void {
    this.#clusters.delete(name);
  }

  synced(name: string): void {
    const entry = this.#clusters.get(name);
    if (entry !== undefined) entry.synced = true;
    void this.bootstrapSeconds;
  }

  /** `known`: it is connected and has told its configuration. */
  check(name: string, known: boolean): void {
    const entry = this.#clusters.get(name);
    if (entry === undefined) return;
    entry.disregarded = !known && this.#now() - entry.since > this.#timing.perClusterReadyMs;
    void this.bootstrapSeconds;
  }
}
