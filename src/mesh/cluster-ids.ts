import { MeshError } from '../core/errors.ts';
import { identityBlock, type MaxClusters } from '../core/identity.ts';

interface Holder {
  readonly id: number;
  readonly max: MaxClusters;
  readonly onEvicted: (error: MeshError) => void;
}

export interface ReserveOptions {
  /** Size of the mesh, which decides the block of identities. */
  readonly max?: MaxClusters;
  /** The local cluster takes its id, whoever holds it. */
  readonly onEvicted?: (error: MeshError) => void;
}

/**
 * Names and ids of the clusters that are followed: each id belongs to one of them (kvstore specification 4.3), and so does
 * each identity. The one that holds an id keeps it, whoever comes later is refused until it is free. Only the local
 * cluster, which may be known later than others, takes what is its own.
 */
export class ClusterIds {
  readonly #holders = new Map<string, Holder>();
  #own: { readonly name: string; readonly id: number } | undefined;

  setOwn(own: { readonly name: string; readonly id: number }): void {
    this.#own = own;
    for (const [name, holder] of this.#holders)
      if (name !== own.name && holder.id === own.id) this.#evict(name, holder, assigned(name, own));
  }

  /** Throws MSH-CLUSTER-ID. Reserving again what one holds is fine; another id takes the place of the former. */
  reserve(cluster: string, id: number, options: ReserveOptions = {}): void {
    const { max = 255, onEvicted = () => {} } = options;
    const own = this.#own;
    if (own !== undefined && own.id === id && own.name !== cluster) throw assigned(cluster, own);
    for (const [name, holder] of this.#holders) {
      if (name === cluster || !overlap(holder, { id, max })) continue;
      if (own?.name !== cluster) throw taken({ name: cluster, id, max }, { name, ...holder });
      this.#evict(name, holder, taken({ name, ...holder }, { name: cluster, id, max }));
    }
    this.#holders.set(cluster, { id, max, onEvicted });
  }

  release(cluster: string): void {
    this.#holders.delete(cluster);
  }

  #evict(name: string, holder: Holder, error: MeshError): void {
    this.#holders.delete(name);
    holder.onEvicted(error);
  }
}

interface Reserved {
  readonly name: string;
  readonly id: number;
  readonly max: MaxClusters;
}

/** Blocks of clusters with different ids overlap when they disagree on the size of the mesh. */
function overlap(a: Omit<Reserved, 'name'>, b: Omit<Reserved, 'name'>): boolean {
  const [firstA, lastA] = identityBlock(a.id, a.max);
  const [firstB, lastB] = identityBlock(b.id, b.max);
  return firstA <= lastB && firstB <= lastA;
}

function assigned(cluster: string, own: { readonly name: string; readonly id: number }): MeshError {
  return new MeshError(
    'MSH-CLUSTER-ID',
    `cluster id ${own.id} of ${cluster} is assigned to the local cluster ${own.name}`,
  );
}

function taken(refused: Reserved, holder: Reserved): MeshError {
  const detail =
    refused.id === holder.id
      ? `cluster id ${refused.id} of ${refused.name} is already used by ${holder.name}`
      : `identities of ${refused.name} (id ${refused.id}, maxConnectedClusters ${refused.max}) overlap those of ${holder.name} (id ${holder.id}, maxConnectedClusters ${holder.max})`;
  return new MeshError('MSH-CLUSTER-ID', detail);
}
