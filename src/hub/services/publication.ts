import { goJson } from '../../kvstore/codec/json.ts';
import type { MachineService } from '../../kvstore/codec/machine-service.ts';
import { factPrefix } from '../../kvstore/paths.ts';

export interface Publication {
  readonly value: string;
  /** Active addresses that had no room. */
  readonly omitted: number;
}

/** A request to etcd has 1.5 MiB at most, and other keys in it, too. */
const MAX_BYTES = 1 << 20;

export function publishedKey(cluster: string, service: Pick<MachineService, 'namespace' | 'name'>): string {
  return `${factPrefix('services', cluster, 'direct')}${service.namespace}/${service.name}`;
}

/**
 * A ClusterService as Cilium's own exporter writes it (kvstore specification 2.5). Frontends are for the machines of the hub
 * alone: clusters have their own (8.3). There is no word of affinity: it is the consumer's.
 */
export function publishedService(
  service: MachineService,
  options: {
    readonly cluster: { readonly name: string; readonly id: number };
    /** Canonical, in an order that does not depend on time. */
    readonly active: readonly string[];
    readonly maxBytes?: number;
  },
): Publication {
  const { cluster, active, maxBytes = MAX_BYTES } = options;
  const portsBy = (number: 'port' | 'targetPort') =>
    new Map(service.ports.map((port) => [port.name, { Protocol: port.protocol, Port: port[number] }]));
  // Written once, and not for each of ten thousand.
  const targets = goJson(portsBy('targetPort'));
  const write = (addresses: readonly string[]): string => {
    const fields: readonly (readonly [string, string])[] = [
      ['cluster', goJson(cluster.name)],
      ['namespace', goJson(service.namespace)],
      ['name', goJson(service.name)],
      ['frontends', goJson(new Map(service.addresses.map((address) => [address, portsBy('port')])))],
      // Addresses are ASCII: this is the order of Go's maps.
      ['backends', `{${[...addresses].sort().map((address) => `"${address}":${targets}`)}}`],
      ['hostnames', '{}'],
      ['labels', '{}'],
      ['selector', goJson(service.selector)],
      ['includeExternal', String(service.global)],
      ['shared', String(service.shared)],
      ['clusterID', String(cluster.id)],
    ];
    return `{${fields.map(([name, value]) => `"${name}":${value}`)}}`;
  };
  // An address in quotes with its colon and comma: 43 characters at most.
  const each = Buffer.byteLength(targets) + 43;
  const room = Math.max(0, Math.floor((maxBytes - Buffer.byteLength(write([]))) / each));
  const taken = active.slice(0, room);
  return { value: write(taken), omitted: active.length - taken.length };
}
