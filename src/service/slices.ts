import { type BackendCondition, betterOf, type EndpointSlice } from '../kvstore/codec/endpoint-slice.ts';
import type { ClusterService, ServicePort } from '../kvstore/codec/service.ts';
import type { ServiceFact } from './facts.ts';

/**
 * One cluster's word on a service from both of its keys. Newer clusters write its backends twice, once in the service and once
 * in slices, which know more: where there are slices, they have the backends, and the service the rest. A cluster that writes
 * slices alone gives no frontends; it writes only what it shares. @returns undefined when there is neither
 */
export function mergeSlices(
  service: ClusterService | undefined,
  slices: readonly EndpointSlice[],
): ServiceFact | undefined {
  const [first] = slices;
  if (first === undefined) return service;
  const { cluster, clusterId, namespace } = first;
  const backends = new Map<string, readonly ServicePort[]>();
  const conditions = new Map<string, BackendCondition>();
  const hostnames = new Map(slices.flatMap((slice) => [...slice.hostnames]));
  for (const slice of slices) {
    for (const [address, condition] of slice.backends) {
      const before = backends.get(address);
      const better = before === undefined ? condition : betterOf(conditions.get(address), condition);
      backends.set(address, before === undefined ? slice.ports : union(before, slice.ports));
      if (better === undefined) conditions.delete(address);
      else conditions.set(address, better);
    }
  }
  const rest = service ?? {
    cluster,
    clusterId,
    namespace,
    name: first.service,
    frontends: new Map(),
    labels: new Map(),
    selector: new Map(),
    includeExternal: true,
    shared: true,
  };
  return { ...rest, backends, conditions, hostnames };
}

/** An address may stand in several slices, each with other ports. */
function union(a: readonly ServicePort[], b: readonly ServicePort[]): readonly ServicePort[] {
  const more = b.filter(
    ({ name, protocol, port }) =>
      !a.some((each) => each.name === name && each.protocol === protocol && each.port === port),
  );
  return more.length === 0 ? a : [...a, ...more];
}
