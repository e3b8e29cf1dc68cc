import { type Address, parseAddress } from '../core/ip.ts';
import type { BackendCondition } from '../kvstore/codec/endpoint-slice.ts';
import type { ServicePort } from '../kvstore/codec/service.ts';
import { compareClusters, type Pool } from './pools.ts';
import type { ResolveContext } from './resolve.ts';
import type { BackendView } from './result.ts';
import { consideredOf } from './share.ts';

/** A backend address that is believed. */
export interface Backend {
  readonly cluster: string;
  readonly unreachable: boolean;
  readonly weight: number;
  readonly condition: BackendCondition | undefined;
  readonly hostname: string | undefined;
  readonly text: string;
  readonly address: Address;
  readonly ports: readonly ServicePort[];
  /** A port of the service matched. */
  matched: boolean;
  serving: boolean;
  /** Why one of its ports fails the check. */
  failure: string | undefined;
}

/** A backend without the time since when, which is not of the present. */
export type BackendState = Omit<BackendView, 'since'>;

/** Every address that a member of the pool names as a backend, as far as this machine looks at them. */
export function backendsOf(pool: Pool, context: ResolveContext): { believed: Backend[]; refused: BackendState[] } {
  const { settings, joined, facts } = context;
  const believed = new Map<string, Backend>();
  const refused: BackendState[] = [];
  const local = settings.local ?? joined;
  // Where two clusters have one address, the local cluster's word counts (specification 8.3).
  const members = [...pool.members].sort(
    (a, b) =>
      Number(b.cluster === local) - Number(a.cluster === local) || compareClusters(a.cluster, b.cluster, joined),
  );
  for (const { cluster, backends, conditions, hostnames } of members) {
    const unreachable = context.cluster(cluster).lostSince !== undefined;
    const weight = settings.weights.get(cluster) ?? 1;
    for (const [text, ports] of consideredOf(backends, settings.machine)) {
      const address = parseAddress(text);
      const other = believed.get(text);
      const reason =
        address === undefined
          ? 'is no address'
          : other !== undefined
            ? `is a backend of ${other.cluster} already`
            : facts.backendRefusal(address, { cluster, joined: cluster === joined });
      if (address !== undefined && reason === undefined)
        believed.set(text, {
          cluster,
          text,
          address,
          ports,
          unreachable,
          weight,
          condition: conditions?.get(text),
          hostname: hostnames?.get(text),
          matched: false,
          serving: false,
          failure: undefined,
        });
      else refused.push({ cluster, address: text, ports, state: 'refused', serving: false, reason });
    }
  }
  return { believed: [...believed.values()], refused };
}

/** What became of a backend after targets were chosen. */
export function stateOf(backend: Backend, affinity: 'none' | 'local' | 'remote'): BackendState {
  const { cluster, text, ports, unreachable, serving, matched, weight, condition, failure } = backend;
  const shown = { cluster, address: text, ports, serving };
  const last = serving ? ', and nothing better is left' : '';
  if (condition === 'not-ready')
    return { ...shown, state: 'not-ready', reason: `${cluster} says that it is not ready` };
  if (unreachable) return { ...shown, state: 'unreachable', reason: `${cluster} is lost${last}` };
  if (failure !== undefined) return { ...shown, state: 'unhealthy', reason: `check failed: ${failure}${last}` };
  if (condition === 'terminating')
    return { ...shown, state: 'terminating', reason: `${cluster} says that it is going away${last}` };
  if (serving) return { ...shown, state: 'active', reason: undefined };
  const reason = !matched
    ? 'no frontend leads to its ports'
    : weight === 0
      ? `the weight of ${cluster} is 0`
      : affinity === 'none'
        ? 'not in the share of this machine'
        : `affinity ${affinity}`;
  return { ...shown, state: 'standby', reason };
}
