import type { ServiceFact } from './facts.ts';

/**
 * Which clusters stand together in a service of one name (kvstore specification 8.2, 8.3). The machine is a consumer in the
 * joined cluster, so that cluster's service is the one that decides:
 *
 *   joined cluster has it, global     its frontends, and those of all that share it ──▶ its backends, and all shared ones
 *   joined cluster has it, not global its frontends ──▶ its backends; what others share under the name is another service
 *   joined cluster has none           frontends of all that share it ──▶ shared backends
 */
export interface Pool {
  /** `own` is the joined cluster's alone. */
  readonly kind: 'global' | 'own';
  /** The joined cluster first, the others by name. */
  readonly members: readonly ServiceFact[];
}

export function poolsOf(services: Iterable<ServiceFact>, joined: string | undefined): Pool[] {
  const sorted = [...services].sort((a, b) => compareClusters(a.cluster, b.cluster, joined));
  const isGlobal = (service: ServiceFact): boolean =>
    service.includeExternal && (service.shared || service.cluster === joined);
  const global = sorted.filter(isGlobal);
  const own = sorted.filter((service) => service.cluster === joined && !isGlobal(service));
  const pools: Pool[] = [];
  if (own.length > 0) pools.push({ kind: 'own', members: own });
  if (global.length > 0) pools.push({ kind: 'global', members: global });
  return pools;
}

/** The joined cluster before all others, these by name: whose word counts where two claim the same. */
export function compareClusters(a: string, b: string, joined: string | undefined): number {
  if (a === b) return 0;
  if (a === joined) return -1;
  if (b === joined) return 1;
  return a < b ? -1 : 1;
}
