import { formatAddress, parseAddress } from '../../core/ip.ts';
import {
  BadValue,
  bool,
  entries,
  entriesOf,
  type Fields,
  fieldsOf,
  parseObject,
  quoted,
  stringMap,
  text,
  uint,
} from './json.ts';

export interface ServicePort {
  readonly name: string;
  readonly protocol: string;
  readonly port: number;
}

/** Ports by canonical address. */
export type PortsByAddress = ReadonlyMap<string, readonly ServicePort[]>;

/** A ClusterService of `services/v1/<cluster>/<namespace>/<name>` (specification 2.5). */
export interface ClusterService {
  readonly cluster: string;
  readonly namespace: string;
  readonly name: string;
  readonly clusterId: number;
  readonly frontends: PortsByAddress;
  readonly backends: PortsByAddress;
  /** By backend address, of pods that have a name of their own in DNS (StatefulSet); absent where none has. */
  readonly hostnames?: ReadonlyMap<string, string>;
  readonly labels: ReadonlyMap<string, string>;
  readonly selector: ReadonlyMap<string, string>;
  readonly includeExternal: boolean;
  readonly shared: boolean;
}

/** `key` is `<namespace>/<name>`. @throws BadValue */
export function decodeService(
  key: string,
  value: Buffer,
  expected: { readonly cluster: string; readonly clusterId: number },
): ClusterService {
  const fields = parseObject(value);
  const [cluster, namespace, name] = [text(fields, 'cluster'), text(fields, 'namespace'), text(fields, 'name')];
  const clusterId = uint(fields, 'clusterID', 511);
  if (cluster !== expected.cluster) throw new BadValue(`cluster ${quoted(cluster)} is not ${expected.cluster}`);
  if (namespace === '' || name === '' || `${namespace}/${name}` !== key)
    throw new BadValue(`${quoted(`${namespace}/${name}`)} is not the key`);
  if (clusterId === 0 || (expected.clusterId !== 0 && clusterId !== expected.clusterId))
    throw new BadValue(`clusterID ${clusterId} is not ${expected.clusterId}`);
  const hostnames = hostnamesOf(fields);
  const frontends = ports(fields, 'frontends');
  const count = [...frontends.values()].reduce((sum, each) => sum + each.length, 0);
  if (count > MAX_FRONTEND_PORTS) throw new BadValue(`${count} frontend ports are more than ${MAX_FRONTEND_PORTS}`);
  return {
    cluster,
    namespace,
    name,
    clusterId,
    ...(hostnames.size > 0 && { hostnames }),
    frontends,
    backends: ports(fields, 'backends'),
    labels: stringMap(fields, 'labels'),
    selector: stringMap(fields, 'selector'),
    includeExternal: bool(fields, 'includeExternal'),
    shared: bool(fields, 'shared'),
  };
}

/** Of all addresses together: each of them costs a look at every backend, on every machine. */
const MAX_FRONTEND_PORTS = 1024;

/** What is no address or no name is left out: nothing but a name hangs on it. */
function hostnamesOf(fields: Fields): Map<string, string> {
  const found = new Map<string, string>();
  for (const [ip, name] of stringMap(fields, 'hostnames')) {
    const address = parseAddress(ip);
    if (address !== undefined && HOSTNAME.test(name)) found.set(formatAddress(address), name);
  }
  return found;
}

/** RFC 1123. */
export const HOSTNAME = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

function ports(fields: Fields, name: string): PortsByAddress {
  return new Map(
    entries(fields, name).map(([ip, value]) => {
      const address = parseAddress(ip);
      if (address === undefined) throw new BadValue(`${name} has ${quoted(ip)}, which is no address`);
      const named = entriesOf(value, `${name}.${ip}`).map(([portName, port]) => {
        const portFields = fieldsOf(port ?? {}, `${name}.${ip}.${portName}`);
        return { name: portName, protocol: text(portFields, 'Protocol'), port: uint(portFields, 'Port', 65535) };
      });
      return [formatAddress(address), named];
    }),
  );
}
