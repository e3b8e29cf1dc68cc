import { formatAddress } from '../../src/core/ip.ts';
import type { BackendCondition } from '../../src/kvstore/codec/endpoint-slice.ts';
import type { PortsByAddress, ServicePort } from '../../src/kvstore/codec/service.ts';
import type { AddressFacts, ServiceFact } from '../../src/service/facts.ts';
import type { ServiceFrontend } from '../../src/service/result.ts';

/** `http=TCP/80`, `UDP/53` without a name; several are separated by blanks. */
export function ports(text: string): ServicePort[] {
  return text.split(' ').map((each) => {
    const [, name = '', protocol = '', port = ''] = /^(?:(\S+)=)?(\w+)\/(\d+)$/.exec(each) ?? [];
    return { name, protocol, port: Number(port) };
  });
}

export function byAddress(all: Readonly<Record<string, string>>): PortsByAddress {
  return new Map(Object.entries(all).map(([address, text]) => [address, ports(text)]));
}

export interface ServiceShape {
  readonly frontends?: Readonly<Record<string, string>>;
  readonly backends?: Readonly<Record<string, string>>;
  readonly global?: boolean;
  readonly shared?: boolean;
  readonly hostnames?: Readonly<Record<string, string>>;
  readonly conditions?: Readonly<Record<string, BackendCondition>>;
}

/** `cluster-a`, `default/web`: a service that is global and shared unless it is said otherwise. */
export function service(cluster: string, name: string, shape: ServiceShape): ServiceFact {
  const [namespace = '', short = ''] = name.split('/');
  return {
    cluster,
    namespace,
    name: short,
    clusterId: 1,
    frontends: byAddress(shape.frontends ?? {}),
    backends: byAddress(shape.backends ?? {}),
    ...(shape.hostnames !== undefined && { hostnames: new Map(Object.entries(shape.hostnames)) }),
    labels: new Map(),
    selector: new Map(),
    includeExternal: shape.global ?? true,
    shared: shape.shared ?? shape.global ?? true,
    ...(shape.conditions !== undefined && { conditions: new Map(Object.entries(shape.conditions)) }),
  };
}

/** Facts of addresses from sets that a test may change. */
export function addressFacts(
  taken: ReadonlySet<string>,
  homes: ReadonlyMap<string, string> | undefined = undefined,
): AddressFacts {
  return {
    frontendRefusal: (address) => (taken.has(formatAddress(address)) ? 'is taken' : undefined),
    backendRefusal: (address, { cluster, joined }) =>
      joined || homes === undefined || homes.get(formatAddress(address)) === cluster
        ? undefined
        : 'is not of the cluster',
  };
}

export function targetTexts(frontend: ServiceFrontend | undefined): string[] {
  return (frontend?.targets ?? [])
    .map(({ address, port, weight }) => `${formatAddress(address)} ${port} *${weight}`)
    .sort();
}
