import { compareClusters } from './pools.ts';

/** A pool that has an address among its frontends, by the word of one cluster. */
export interface Claim {
  /** Names the pool. */
  readonly pool: string;
  readonly cluster: string;
}

interface Claimed {
  /** Clusters by pool. */
  readonly claims: Map<string, string>;
  best: Claim;
}

/**
 * Whose frontend an address is. An address belongs to one service alone, with all its ports: who could add a port to the
 * address of another would get what its clients send there by mistake or by design. The joined cluster's word goes before
 * any other, then the name of the cluster and of the service decide, so that equal facts have equal owners.
 */
export class Claims {
  readonly #byAddress = new Map<string, Claimed>();
  readonly #byPool = new Map<string, ReadonlyMap<string, string>>();
  #joined: string | undefined;

  /** All claims must be set again after another cluster became the joined one. */
  set joined(cluster: string | undefined) {
    this.#joined = cluster;
    for (const claimed of this.#byAddress.values()) claimed.best = this.#bestOf(claimed.claims) ?? claimed.best;
  }

  ownerOf(address: string): Claim | undefined {
    return this.#byAddress.get(address)?.best;
  }

  /** How many addresses are claimed by more than one pool, and examples. */
  contested(limit: number): { readonly count: number; readonly examples: readonly string[] } {
    let count = 0;
    const examples: string[] = [];
    for (const [address, { claims, best }] of this.#byAddress) {
      if (claims.size < 2) continue;
      count++;
      if (examples.length < limit) examples.push(`${address} (in force: ${best.pool} of ${best.cluster})`);
    }
    return { count, examples };
  }

  /** The addresses that a pool claims now, each with the cluster by whose word. @returns pools that lost or won one by it */
  set(pool: string, addresses: ReadonlyMap<string, string>): ReadonlySet<string> {
    const before = this.#byPool.get(pool);
    const moved = new Set<string>();
    if (before === undefined && addresses.size === 0) return moved;
    for (const [address, cluster] of before ?? [])
      if (addresses.get(address) !== cluster) this.#withdraw(pool, address, moved);
    for (const [address, cluster] of addresses)
      if (before?.get(address) !== cluster) this.#claim({ pool, cluster }, address, moved);
    if (addresses.size === 0) this.#byPool.delete(pool);
    else this.#byPool.set(pool, addresses);
    return moved;
  }

  #claim(claim: Claim, address: string, moved: Set<string>): void {
    const claimed = this.#byAddress.get(address);
    if (claimed === undefined) {
      this.#byAddress.set(address, { claims: new Map([[claim.pool, claim.cluster]]), best: claim });
      return;
    }
    claimed.claims.set(claim.pool, claim.cluster);
    if (this.#compare(claim, claimed.best) >= 0) return;
    moved.add(claimed.best.pool);
    claimed.best = claim;
  }

  #withdraw(pool: string, address: string, moved: Set<string>): void {
    const claimed = this.#byAddress.get(address);
    if (claimed?.claims.delete(pool) !== true) return;
    const best = this.#bestOf(claimed.claims);
    if (best === undefined) this.#byAddress.delete(address);
    else if (claimed.best.pool === pool) {
      claimed.best = best;
      moved.add(best.pool);
    }
  }

  #bestOf(claims: ReadonlyMap<string, string>): Claim | undefined {
    let best: Claim | undefined;
    for (const [pool, cluster] of claims) {
      const claim = { pool, cluster };
      if (best === undefined || this.#compare(claim, best) < 0) best = claim;
    }
    return best;
  }

  #compare(a: Claim, b: Claim): number {
    return compareClusters(a.cluster, b.cluster, this.#joined) || (a.pool < b.pool ? -1 : a.pool > b.pool ? 1 : 0);
  }
}
