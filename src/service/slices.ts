import { type BackendCondition, betterOf, type EndpointSlice } from '../kvstore/codec/endpoint-slice.ts';
import type { ClusterService, ServicePort } from '../kvstore/codec/service.ts';
import type { ServiceFact } from './facts.ts';

/** Of one address. A slice has so many at most, and slices of one service have the same ones. */
const MAX_PORTS = 100;

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
    // Many addresses, and few combinations of slices that they stand in.
    const unions = new Map<readonly ServicePort[], readonly ServicePort[]>();
    for (const [address, condition] of slice.backends) {
      const before = backends.get(address);
      const better = before === undefined ? condition : betterOf(conditions.get(address), condition);
      const all = before === undefined ? slice.ports : (unions.get(before) ?? union(before, slice.ports));
      if (before !== undefined) unions.set(before, all);
      backends.set(address, all);
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

/**
 * An address may stand in several slices, each with other ports: a name and protocol stand for one, and what is too much is left
 * out.
 */
function union(a: readonly ServicePort[], b: readonly ServicePort[]): readonly ServicePort[] {
  const more = b.filter(({ name, protocol }) => !a.some((each) => each.name === name && each.protocol === protocol));
  return more.length === 0 || a.length >= MAX_PORTS ? a : [...a, ...more].slice(0, MAX_PORTS);
}
