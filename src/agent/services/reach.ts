import type { Mesh } from '../../mesh/mesh.ts';

export interface LostCluster {
  readonly name: string;
  /** Milliseconds since the epoch. */
  readonly since: number;
}

const NOBODY: ReadonlyMap<string, number> = new Map();

/**
 * Which clusters count as lost: those whose own store could not be reached for the grace, by us, or by the hub through whose
 * store we see them. Not the joined cluster: when that is away we know nothing new, and what we know stays in force.
 */
export class ClusterReach {
  readonly #mesh: Pick<Mesh, 'list'>;
  readonly #graceMs: () => number;
  readonly #away = new Map<string, { readonly since: number; readonly at: number }>();

  constructor(mesh: Pick<Mesh, 'list'>, graceMs: () => number) {
    this.#mesh = mesh;
    this.#graceMs = graceMs;
  }

  /** `now`: monotonic milliseconds. `told`: the hub's word, by name and since when. `next`: when the next one may count as lost; undefined when none is on its way. */
  look(
    now = performance.now(),
    told: ReadonlyMap<string, number> = NOBODY,
  ): { readonly lost: readonly LostCluster[]; readonly next: number | undefined } {
    const present = new Set<string>();
    const lost: LostCluster[] = [];
    let next: number | undefined;
    for (const { cluster, store } of this.#mesh.list()) {
      const { name } = cluster;
      const isAway = cluster.kind === 'remote' ? store.status.state !== 'connected' : told.has(name);
      if (cluster.kind === 'joined' || !isAway) continue;
      present.add(name);
      const since = cluster.kind === 'cached' ? told.get(name) : undefined;
      const away = this.#away.get(name) ?? { since: since ?? Date.now(), at: now };
      this.#away.set(name, away);
      const due = away.at + this.#graceMs();
      if (now >= due) lost.push({ name, since: away.since });
      else next = Math.min(next ?? due, due);
    }
    for (const name of this.#away.keys()) if (!present.has(name)) this.#away.delete(name);
    return { lost, next };
  }
}
