import type { Mesh } from '../mesh/mesh.ts';
import type { Registration } from '../mesh/registration.ts';
import type { PolicyFeed } from './policy-feed.ts';

export interface ReadinessInputs {
  readonly registration: () => Registration | undefined;
  readonly mesh: Mesh;
  readonly policies: PolicyFeed;
  /** Whether the files of remote clusters were read once. */
  readonly clustersRead: () => boolean;
}

/** How long remote clusters may hold back the first enforcement, milliseconds (Cilium's clustermesh-sync-timeout). */
const REMOTE_MS = 60_000;

/**
 * Whether everything that enforcement depends on has been seen once: before that the kernel keeps what an earlier run left
 * there. A remote cluster that is away does not hold it back for longer than a minute.
 */
export class Readiness {
  readonly #inputs: ReadinessInputs;
  #joinedAt: number | undefined;

  constructor(inputs: ReadinessInputs) {
    this.#inputs = inputs;
  }

  /** What is missing, in words; empty when enforcement may begin. */
  missing(now = performance.now()): string[] {
    const { registration, mesh, policies, clustersRead } = this.#inputs;
    const registered = registration()?.registered;
    if (registered === undefined) return [registration()?.waitingFor ?? 'no store to join is configured'];
    this.#joinedAt ??= now;
    const found: string[] = [];
    if (mesh.discovering) found.push('listing the clusters that the store caches');
    if (!clustersRead()) found.push('reading the files of remote clusters');
    for (const { cluster } of mesh.list()) {
      const waits = cluster.kind === 'joined' || now - this.#joinedAt < REMOTE_MS;
      if (waits && !cluster.synced) found.push(`cluster ${cluster.name}: ${cluster.waitingFor ?? 'listing'}`);
    }
    const policy = policies.waitingFor;
    if (policy !== undefined) found.push(policy);
    return found;
  }
}
