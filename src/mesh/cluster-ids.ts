import { MeshError } from '../core/errors.ts';

/**
 * Names and ids of the clusters that are followed: each belongs to one connection (kvstore specification 4.3). The one
 * that holds it keeps it; whoever comes later is refused until it is free.
 */
export class ClusterIds {
  readonly #holders = new Map<number, string>();
  #own: { readonly name: string; readonly id: number } | undefined;

  setOwn(own: { readonly name: string; readonly id: number }): void {
    this.#own = own;
  }

  /** Throws MSH-CLUSTER-ID. Reserving again what one holds is fine; another id takes the place of the former. */
  reserve(cluster: string, id: number): void {
    const own = this.#own;
    if (own !== undefined && own.id === id && own.name !== cluster) {
      throw new MeshError(
        'MSH-CLUSTER-ID',
        `cluster id ${id} of ${cluster} is assigned to the local cluster ${own.name}`,
      );
    }
    const holder = this.#holders.get(id);
    if (holder !== undefined && holder !== cluster) {
      throw new MeshError('MSH-CLUSTER-ID', `cluster id ${id} of ${cluster} is already used by ${holder}`);
    }
    this.release(cluster);
    this.#holders.set(id, cluster);
  }

  release(cluster: string): void {
    for (const [id, holder] of this.#holders) if (holder === cluster) this.#holders.delete(id);
  }
}
