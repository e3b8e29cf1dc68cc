import { type Address, parseAddress } from '../core/ip.ts';
import type { PortsByAddress, ServicePort } from '../kvstore/codec/service.ts';
import type { Pool } from './pools.ts';

/** An address that a name leads to, with the ports that it has there. */
export interface NamedPlace {
  readonly address: Address;
  readonly ports: readonly ServicePort[];
}

export interface NamedBackend extends NamedPlace {
  readonly cluster: string;
  /** Its own name below that of the service. */
  readonly hostname: string | undefined;
}

/** What a service is to whoever asks for its name. */
export interface NamedService {
  /** `own` is the joined cluster's alone. */
  readonly kind: Pool['kind'];
  /**
   * The addresses that one cluster gave it, as far as they are in force; every cluster's lead to the same backends. Of the
   * local cluster where that has any, else of the joined one, else of the first by name.
   */
  readonly frontends: readonly NamedPlace[];
  /** Of a headless service, which no cluster gives an address: the backends that would get connections. Undefined for others. */
  readonly headless: readonly NamedBackend[] | undefined;
}

/** Backends of a headless service that a name can lead to; of more, this machine takes a share. */
export const MAX_NAMED = 1000;

/** `isInForce` is asked of each frontend port. */
export function namedFrontends(
  pool: Pool,
  local: string | undefined,
  isInForce: (address: string, port: ServicePort) => boolean,
): readonly NamedPlace[] {
  const members = [...pool.members].sort((a, b) => Number(b.cluster === local) - Number(a.cluster === local));
  for (const { frontends } of members) {
    const places = placesOf(frontends, isInForce);
    if (places.length > 0) return places;
  }
  return [];
}

function placesOf(frontends: PortsByAddress, isInForce: (address: string, port: ServicePort) => boolean): NamedPlace[] {
  return [...frontends].flatMap(([text, all]) => {
    const address = parseAddress(text);
    const ports = all.filter((port) => isInForce(text, port));
    return address === undefined || ports.length === 0 ? [] : [{ address, ports }];
  });
}

/** No cluster gives it an address. */
export function isHeadless(pool: Pool): boolean {
  return pool.members.every(({ frontends }) => frontends.size === 0);
}
