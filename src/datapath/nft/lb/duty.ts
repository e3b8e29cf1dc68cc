import { hasTranslatedConnections } from '../../../host/connections.ts';
import type { ServiceMap } from '../../../service/result.ts';
import type { DesiredState } from '../../desired.ts';
import type { HeldState } from '../held.ts';
import { LB_CHAIN, type PacketServices, REFUSE_CHAIN } from './rules.ts';

/** Least time between two looks at all connections. */
const LOOK_MS = 60_000;

/**
 * What the packets have to do for services. A hook for address translation costs every new connection, so there is none before
 * a frontend leads somewhere; but it outlives the last one for as long as there are connections that are translated, since
 * without any such hook the kernel would no longer do it.
 */
export class ServiceDuty {
  #lookedAt = Number.NEGATIVE_INFINITY;

  /** `fresh`: what the kernel holds was just read, by a process that starts or has its doubts. */
  async of(services: DesiredState['services'], held: HeldState, fresh: boolean): Promise<PacketServices> {
    if (!held.balances || services === 'off') return 'none';
    const present = presentOf(held.chains);
    // Not known: what an earlier run left stays until it is known better.
    if (services === undefined) return present;
    if (leadsAnywhere(services)) return 'lead';
    if (present === 'lead' && (await this.#isInUse(fresh))) return 'lead';
    return services.size > 0 || present === 'refuse' ? 'refuse' : 'none';
  }

  async #isInUse(fresh: boolean): Promise<boolean> {
    const now = performance.now();
    if (!fresh && now - this.#lookedAt < LOOK_MS) return true;
    this.#lookedAt = now;
    return hasTranslatedConnections();
  }
}

/** What rules that have these chains do. */
export function presentOf(chains: readonly string[]): PacketServices {
  if (chains.includes(LB_CHAIN)) return 'lead';
  return chains.includes(REFUSE_CHAIN) ? 'refuse' : 'none';
}

function leadsAnywhere(services: ServiceMap): boolean {
  for (const key of services.keys()) if ((services.get(key)?.targets.length ?? 0) > 0) return true;
  return false;
}
