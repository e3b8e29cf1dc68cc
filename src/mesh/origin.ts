/**
 * Where facts come from. Stronger sources first, as Cilium orders them (kvstore specification 4.10); `node` is weakest
 * among single addresses, because Cilium keeps node addresses as prefixes, which an address of an endpoint shadows.
 */
export const SOURCES = ['local', 'kvstore', 'clustermesh', 'node', 'policy'] as const;
export type Source = (typeof SOURCES)[number];

/** One writer of facts: a cluster in one role. Compact tables keep its index. */
export interface Origin {
  readonly index: number;
  readonly cluster: string;
  readonly source: Source;
}

const MAX_ORIGINS = 4096;

/** Origins by index. They are few (two per cluster) and live as long as the process. */
export class Origins {
  readonly #all: Origin[] = [];

  /** The same cluster and source give the same origin again. Throws RangeError beyond 4,096. */
  of(cluster: string, source: Source): Origin {
    const known = this.#all.find((origin) => origin.cluster === cluster && origin.source === source);
    if (known !== undefined) return known;
    if (this.#all.length >= MAX_ORIGINS) throw new RangeError(`more than ${MAX_ORIGINS} sources of facts`);
    const origin: Origin = { index: this.#all.length, cluster, source };
    this.#all.push(origin);
    return origin;
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
}
