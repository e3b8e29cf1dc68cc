import type { Mesh } from '../../mesh/mesh.ts';

export interface LostCluster {
  readonly name: string;
  /** Milliseconds since the epoch. */
  readonly since: number;
}

/**
 * Which clusters count as lost: those whose own store could not be reached for the grace. Not the joined cluster, and not
 * those that we see through its store: when that is away we know nothing new, and what we know stays in force.
 */
export class ClusterReach {
  readonly #mesh: Pick<Mesh, 'list'>;
  readonly #graceMs: () => number;
  readonly #away = new Map<string, { readonly since: number; readonly at: number }>();

  constructor(mesh: Pick<Mesh, 'list'>, graceMs: () => number) {
    this.#mesh = mesh;
    this.#graceMs = graceMs;
  }

  /** `now`: monotonic milliseconds. `next`: when the next one may count as lost; undefined when none is on its way. */
  look(now = performance.now()): { readonly lost: readonly LostCluster[]; readonly next: number | undefined } {
    const present = new Set<string>();
    const lost: LostCluster[] = [];
    let next: number | undefined;
    for (const { cluster, store } of this.#mesh.list()) {
      if (cluster.kind !== 'remote' || store.status.state === 'connected') continue;
      present.add(cluster.name);
      const away = this.#away.get(cluster.name) ?? { since: Date.now(), at: now };
      this.#away.set(cluster.name, away);
      const due = away.at + this.#graceMs();
      if (now >= due) lost.push({ name: cluster.name, since: away.since });
      else next = Math.min(next ?? due, due);
    }
    for (const name of this.#away.keys()) if (!present.has(name)) this.#away.delete(name);
    return { lost, next };
  }
}
