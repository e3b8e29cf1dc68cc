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

/** Fewer are looked through. */
const MANY = 8;

/** `matchingPorts` for many frontend ports and the same backends: a backend that has many ports has an index of them. */
export class PortMatcher {
  readonly #indexes = new Map<readonly ServicePort[], ReadonlyMap<string, PortIndex>>();

  match(frontend: ServicePort, backend: readonly ServicePort[]): readonly ServicePort[] {
    if (backend.length <= MANY) return matchingPorts(frontend, backend);
    const index = this.#indexes.get(backend) ?? indexOf(backend);
    this.#indexes.set(backend, index);
    const found = index.get(frontend.protocol);
    if (found === undefined) return [];
    return found.byName.get(frontend.name) ?? (frontend.name === '' ? found.all : (found.byName.get('') ?? []));
  }
}

/** Ports of one protocol. */
interface PortIndex {
  readonly all: ServicePort[];
  readonly byName: Map<string, ServicePort[]>;
}

function indexOf(ports: readonly ServicePort[]): Map<string, PortIndex> {
  const index = new Map<string, PortIndex>();
  for (const port of ports) {
    if (port.port === 0) continue;
    const { all, byName } = index.get(port.protocol) ?? { all: [], byName: new Map<string, ServicePort[]>() };
    index.set(port.protocol, { all, byName });
    all.push(port);
    const named = byName.get(port.name);
    if (named === undefined) byName.set(port.name, [port]);
    else named.push(port);
  }
  return index;
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
