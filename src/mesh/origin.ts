/**
 * Where facts come from. Stronger sources first, as Cilium orders them (kvstore specification 4.10): `node` are the node
 * addresses of the cluster that we joined, which no other cluster may take over; `clustermesh-node` are those of other
 * clusters, which an address of an endpoint shadows. `policy` are prefixes that policies name.
 */
export const SOURCES = ['local', 'kvstore', 'node', 'clustermesh', 'clustermesh-node', 'policy'] as const;
export type Source = (typeof SOURCES)[number];

/** One writer of facts: a cluster in one role. Compact tables keep its index. */
export interface Origin {
  readonly index: number;
  readonly cluster: string;
  readonly source: Source;
}

/** What the compact tables have room for. */
const MAX_ORIGINS = 4096;

/** Origins by index. They are few (two per cluster) and live as long as the process. */
export class Origins {
  readonly #all: Origin[] = [];
  readonly #byName = new Map<string, Origin>();

  /** The same cluster and source give the same origin again. Throws RangeError beyond 4,096. */
  of(cluster: string, source: Source): Origin {
    const known = this.find(cluster, source);
    if (known !== undefined) return known;
    if (this.#all.length >= MAX_ORIGINS) throw new RangeError(`more than ${MAX_ORIGINS} sources of facts`);
    const origin: Origin = { index: this.#all.length, cluster, source };
    this.#all.push(origin);
    this.#byName.set(`${source} ${cluster}`, origin);
    return origin;
  }

  /** The same, but none is made. */
  find(cluster: string, source: Source): Origin | undefined {
    return this.#byName.get(`${source} ${cluster}`);
  }

  at(index: number): Origin {
    const origin = this.#all[index];
    if (origin === undefined) throw new RangeError(`no origin ${index}`);
    return origin;
  }

  /** Negative when `a` is stronger. Equal sources are ordered by cluster name: the same facts give the same winner. */
  compare(a: number, b: number): number {
    if (a === b) return 0;
    const [left, right] = [this.at(a), this.at(b)];
    const rank = SOURCES.indexOf(left.source) - SOURCES.indexOf(right.source);
    return rank !== 0 ? rank : left.cluster < right.cluster ? -1 : 1;
  }

  /** Whether origins are of more than one cluster; policies are of none. */
  areDisputed(origins: Iterable<number>): boolean {
    let first: string | undefined;
    for (const index of origins) {
      const { cluster, source } = this.at(index);
      if (source === 'policy') continue;
      if (first !== undefined && first !== cluster) return true;
      first = cluster;
    }
    return false;
  }
}
