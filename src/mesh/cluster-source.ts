import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { CLUSTER_CONFIG_PREFIX, canaryPrefix } from '../kvstore/paths.ts';
import type { PrefixSink, PrefixWatch, Store } from '../kvstore/store.ts';

export interface ClusterProblem {
  readonly code: ErrorCode;
  readonly message: string;
  /** Milliseconds since the epoch. */
  readonly since: number;
}

/** What is read of a cluster, by its configuration, and where it is. */
export interface SourcePlan<Kind extends string> {
  /** In the order in which they are started. */
  readonly kinds: readonly Kind[];
  /** A kind is read only once its canary is there. */
  readonly gated: boolean;
  /** The canary of a kind, relative to `canaryPrefix`. */
  readonly canary: (kind: Kind) => string;
  readonly prefix: (kind: Kind) => string;
}

/** Whoever reads the cluster. */
export interface SourceReader<Kind extends string> {
  /** The configuration as it is published; a good one is followed by `follow`. What it throws is the problem to show. */
  configured(value: Buffer): void;
  /** The store has no configuration. */
  unconfigured?(): void;
  /** A sink for a new watch. `mayRemove` says whether a list that is over now can be believed to be complete. */
  sink(kind: Kind, mayRemove: () => boolean): PrefixSink;
  /** The last list of that kind was not believed: it has to be listed again. */
  isPartial(kind: Kind): boolean;
  /** All watches have ended, and start anew later. What was read stays. */
  stopped(): void;
}

export interface ClusterSourceOptions<Kind extends string> {
  readonly name: string;
  readonly store: Store;
  readonly reader: SourceReader<Kind>;
  /** Something that status shows has changed. */
  readonly onChange: () => void;
}

/**
 * The gate between a cluster's store and whoever reads it: its configuration, and kind by kind a watch from when the canary
 * says that the store is complete (kvstore specification 4.3, 4.6). A store that is away, or whose canaries vanish, ends
 * nothing; one that was replaced, or lost its data, is not read before its canaries are back.
 *
 *   configuration ──▶ follow(plan) ──▶ canary of a kind ──▶ list + watch
 */
export class ClusterSource<Kind extends string> {
  readonly #options: ClusterSourceOptions<Kind>;
  #store: Store;
  #configWatch: PrefixWatch;
  /** As it is in the store, to try it again. */
  #published: Buffer | undefined;
  #problem: ClusterProblem | undefined;
  #plan: SourcePlan<Kind> | undefined;
  #canaryWatch: PrefixWatch | undefined;
  #canaries = new Set<string>();
  readonly #watches = new Map<Kind, PrefixWatch>();
  #closed = false;

  constructor(options: ClusterSourceOptions<Kind>) {
    this.#options = options;
    this.#store = options.store;
    this.#configWatch = this.#watchConfig();
  }

  get store(): Store {
    return this.#store;
  }

  /** The store has a configuration now, good or not. */
  get published(): boolean {
    return this.#published !== undefined;
  }

  get problem(): ClusterProblem | undefined {
    return this.#problem;
  }

  /** Kinds of the plan that wait for their canary. */
  get unannounced(): readonly Kind[] {
    return this.#plan?.kinds.filter((kind) => !this.#isAnnounced(kind)) ?? [];
  }

  /** The canaries that the store has are known. */
  get canariesListed(): boolean {
    return this.#canaryWatch?.synced === true;
  }

  /** The whole key. */
  canaryKey(kind: Kind): string {
    return canaryPrefix(this.#options.name) + (this.#plan?.canary(kind) ?? '');
  }

  /** Reads by this plan. Watches that are open stay: `stop` ends them when what they read has changed. */
  follow(plan: SourcePlan<Kind>): void {
    this.#plan = plan;
    this.#canaryWatch ??= this.#watchCanaries();
    this.#startAnnounced();
  }

  /** Reads nothing but the configuration until `follow`. */
  unfollow(): void {
    this.#forgetCanaries();
    this.stop();
    this.#plan = undefined;
  }

  /** Ends the watches; `follow`, or a canary, starts them anew. */
  stop(): void {
    this.#closeWatches();
    this.#options.reader.stopped();
  }

  /** The store has another data set now. Called before anything of it is listed. */
  dataLost(): void {
    this.#canaries = new Set();
    if (this.#plan?.gated !== true) return;
    this.stop();
    this.#options.onChange();
  }

  /** Goes on with another store; it is read once it has told its configuration and canaries. */
  moveTo(store: Store): void {
    this.#configWatch.close();
    this.#forgetCanaries();
    this.stop();
    this.#store = store;
    this.#published = undefined;
    this.#problem = undefined;
    this.#configWatch = this.#watchConfig();
    this.#options.onChange();
  }

  /** Tries a refused configuration again: the id may be free by now. */
  retry(): void {
    if (this.#problem !== undefined && this.#published !== undefined) this.#configured(this.#published);
  }

  /** Lists a kind again, if it is read at all: what was refused may be good now. */
  readAgain(kind: Kind): void {
    if (this.#plan !== undefined && this.#watches.has(kind)) this.#start(kind, this.#plan);
  }

  fail(code: ErrorCode, message: string): void {
    if (this.#problem?.message === message) return;
    this.#problem = { code, message, since: this.#problem?.since ?? Date.now() };
    this.#options.onChange();
  }

  close(): void {
    this.#closed = true;
    this.#configWatch.close();
    this.#forgetCanaries();
    this.#closeWatches();
  }

  #watchConfig(): PrefixWatch {
    const { name, reader, onChange } = this.#options;
    let found = false;
    return this.#store.watchKey(CLUSTER_CONFIG_PREFIX + name, {
      listing: () => {
        found = false;
      },
      put: (_, value) => {
        found = true;
        this.#published = Buffer.from(value);
        this.#configured(this.#published);
      },
      remove: () => this.#withdrawn(),
      listed: () => {
        if (!found) this.#withdrawn();
        if (!found) reader.unconfigured?.();
        onChange();
      },
    });
  }

  /** Reading goes on: a store that is being filled again has no configuration for a while. */
  #withdrawn(): void {
    this.#published = undefined;
    this.#problem = undefined;
    this.#options.onChange();
  }

  #configured(value: Buffer): void {
    if (this.#closed) return;
    try {
      this.#options.reader.configured(value);
      this.#problem = undefined;
    } catch (error) {
      this.fail(error instanceof MeshError ? error.code : 'MSH-CONFIG', messageOf(error));
    }
    this.#options.onChange();
  }

  #watchCanaries(): PrefixWatch {
    return this.#store.watchPrefix(canaryPrefix(this.#options.name), {
      listing: () => {
        this.#canaries = new Set();
      },
      put: (key) => {
        this.#canaries.add(key);
        this.#startAnnounced();
      },
      remove: (key) => void this.#canaries.delete(key),
      listed: () => this.#options.onChange(),
    });
  }

  #isAnnounced(kind: Kind): boolean {
    const plan = this.#plan;
    return plan !== undefined && (!plan.gated || this.#canaries.has(plan.canary(kind)));
  }

  #startAnnounced(): void {
    const plan = this.#plan;
    if (plan === undefined || this.#closed) return;
    for (const kind of plan.kinds) {
      if (!this.#isAnnounced(kind)) continue;
      if (!this.#watches.has(kind) || this.#options.reader.isPartial(kind)) this.#start(kind, plan);
    }
  }

  #start(kind: Kind, { prefix, gated }: SourcePlan<Kind>): void {
    this.#watches.get(kind)?.close();
    // A canary that vanished means that the store is being filled again: what is not there may be still to come.
    const sink = this.#options.reader.sink(kind, () => this.#isAnnounced(kind));
    this.#watches.set(kind, this.#store.watchPrefix(prefix(kind), gated ? this.#doubting(sink) : sink));
  }

  /** A list that is forced later may be complete before the canaries' own watch tells that they are gone: they are asked for. */
  #doubting(sink: PrefixSink): PrefixSink {
    let isFirst = true;
    return {
      listing: () => {
        if (!isFirst) this.#askForCanaries();
        isFirst = false;
        sink.listing();
      },
      put: (key, value, modRevision, lease) => sink.put(key, value, modRevision, lease),
      remove: (key) => sink.remove(key),
      listed: () => sink.listed(),
    };
  }

  /** Until they have answered no kind is announced; those that are listed meanwhile are listed once more. */
  #askForCanaries(): void {
    if (this.#canaryWatch?.synced !== true) return;
    this.#canaryWatch.close();
    this.#canaries = new Set();
    this.#canaryWatch = this.#watchCanaries();
  }

  #closeWatches(): void {
    for (const watch of this.#watches.values()) watch.close();
    this.#watches.clear();
  }

  #forgetCanaries(): void {
    this.#canaryWatch?.close();
    this.#canaryWatch = undefined;
    this.#canaries = new Set();
  }
}
