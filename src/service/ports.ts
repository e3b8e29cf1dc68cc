import type { ServicePort } from '../kvstore/codec/service.ts';
import type { ServiceProtocol } from './result.ts';

const PROTOCOLS: ReadonlyMap<string, ServiceProtocol> = new Map([
  ['TCP', 6],
  ['UDP', 17],
  ['SCTP', 132],
]);

/** The number of a protocol that services may have; undefined for any other. */
export function protocolOf({ protocol }: Pick<ServicePort, 'protocol'>): ServiceProtocol | undefined {
  return PROTOCOLS.get(protocol);
}

/**
 * The ports of a backend that a frontend port leads to (kvstore specification 8.4, as of 1.18): the protocol must be the
 * same, and the name where both have one. An equal name goes before no name.
 */
export function matchingPorts(frontend: ServicePort, backend: readonly ServicePort[]): ServicePort[] {
  const usable = backend.filter(({ protocol, port }) => protocol === frontend.protocol && port !== 0);
  const exact = usable.filter(({ name }) => name === frontend.name);
  return exact.length > 0 ? exact : usable.filter(({ name }) => name === '' || frontend.name === '');
}
