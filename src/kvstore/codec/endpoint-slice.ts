import { constants, zstdDecompressSync } from 'node:zlib';
import { messageOf } from '../../core/errors.ts';
import { formatAddress, parseAddress } from '../../core/ip.ts';
import { WireReader } from '../wire.ts';
import { BadValue, quoted } from './json.ts';
import { HOSTNAME, type ServicePort } from './service.ts';

/** What a cluster says of a backend that is not simply ready: it goes away and still answers, or it does not answer. */
export type BackendCondition = 'terminating' | 'not-ready';

/**
 * A ClusterEndpointSlice of `endpointslices/v1/<cluster>/<namespace>/<name>` (specification 2.7), Cilium 1.20: a part of the
 * backends of one service of the cluster, which shares it.
 */
export interface EndpointSlice {
  readonly cluster: string;
  readonly clusterId: number;
  readonly namespace: string;
  readonly name: string;
  /** The service of its namespace that it belongs to. */
  readonly service: string;
  /** Of every backend in it. */
  readonly ports: readonly ServicePort[];
  /** By canonical address; undefined is ready. */
  readonly backends: ReadonlyMap<string, BackendCondition | undefined>;
  /** By address, of pods that have a name of their own in DNS (StatefulSet). */
  readonly hostnames: ReadonlyMap<string, string>;
}

/** Cilium's own limit is 16 MiB; a slice of a thousand endpoints, the most that Kubernetes lets it have, is far below this. */
const MAX_BYTES = 4 << 20;
/** The window that a frame may ask for, as a power of two: that of Go's encoder. */
const MAX_WINDOW_LOG = 23;
/** Kubernetes' limits. */
const MAX_ENDPOINTS = 1000;
const MAX_ADDRESSES = 100;
/** Of a whole slice: an endpoint has one address of its family, whatever Kubernetes would allow. */
const MAX_ALL_ADDRESSES = 5000;
const MAX_PORTS = 100;
const SERVICE_LABEL = 'kubernetes.io/service-name';

/** `key` is `<namespace>/<name>`. @throws BadValue */
export function decodeEndpointSlice(
  key: string,
  value: Buffer,
  expected: { readonly cluster: string; readonly clusterId: number },
): EndpointSlice {
  let raw: RawSlice;
  try {
    raw = readSlice(new WireReader(unpacked(value)));
  } catch (error) {
    throw error instanceof BadValue ? error : new BadValue(`no protocol buffer: ${messageOf(error)}`);
  }
  const { cluster, clusterId, namespace, name, service, family } = raw;
  if (cluster !== expected.cluster) throw new BadValue(`cluster ${quoted(cluster)} is not ${expected.cluster}`);
  if (namespace === '' || name === '' || `${namespace}/${name}` !== key)
    throw new BadValue(`${quoted(`${namespace}/${name}`)} is not the key`);
  if (clusterId === 0 || (expected.clusterId !== 0 && clusterId !== expected.clusterId))
    throw new BadValue(`clusterID ${clusterId} is not ${expected.clusterId}`);
  if (service === '' || service.includes('/')) throw new BadValue(`label ${SERVICE_LABEL} names no service`);
  if (family === 0) throw new BadValue('addressType is neither IPv4 nor IPv6');
  if (new Set(raw.ports.map((port) => `${port.protocol} ${port.name}`)).size < raw.ports.length)
    throw new BadValue('two ports have one name');
  const all = backendsOf(raw.endpoints, family);
  return { cluster, clusterId, namespace, name, service, ports: raw.ports, ...all };
}

/** A frame that would become larger than any slice is refused before it does. */
function unpacked(value: Buffer): Buffer {
  try {
    return zstdDecompressSync(value, {
      maxOutputLength: MAX_BYTES,
      params: { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_LOG },
    });
  } catch (error) {
    throw new BadValue(`not compressed by zstd, or larger than ${MAX_BYTES} bytes: ${messageOf(error)}`);
  }
}

interface RawEndpoint {
  readonly addresses: readonly string[];
  readonly condition: BackendCondition | undefined;
  readonly hostname: string;
}

interface RawSlice {
  cluster: string;
  clusterId: number;
  namespace: string;
  name: string;
  service: string;
  /** 0 for a type that is not an address. */
  family: 4 | 6 | 0;
  readonly endpoints: RawEndpoint[];
  readonly ports: ServicePort[];
}

function readSlice(reader: WireReader): RawSlice {
  const [endpoints, ports]: [RawEndpoint[], ServicePort[]] = [[], []];
  const slice: RawSlice = {
    cluster: '',
    clusterId: 0,
    namespace: '',
    name: '',
    service: '',
    family: 0,
    endpoints,
    ports,
  };
  let addresses = 0;
  while (reader.next()) {
    const { field } = reader;
    if (field === 1) slice.cluster = reader.string();
    else if (field === 2) slice.clusterId = reader.number();
    else if (field === 3) slice.namespace = reader.string();
    else if (field === 4) slice.name = reader.string();
    else if (field === 5) slice.service = within(reader, readServiceLabel) ?? slice.service;
    else if (field === 7) slice.family = familyOf(reader.string());
    else if (field === 8)
      addresses += endpoints[endpoints.push(within(reader, readEndpoint)) - 1]?.addresses.length ?? 0;
    else if (field === 9) ports.push(...within(reader, readPort));
    else reader.skip();
    if (endpoints.length > MAX_ENDPOINTS) throw new BadValue(`more than ${MAX_ENDPOINTS} endpoints`);
    if (addresses > MAX_ALL_ADDRESSES) throw new BadValue(`more than ${MAX_ALL_ADDRESSES} addresses`);
    if (ports.length > MAX_PORTS) throw new BadValue(`more than ${MAX_PORTS} ports`);
  }
  return slice;
}

function within<T>(reader: WireReader, read: (reader: WireReader) => T): T {
  const outer = reader.enter();
  const result = read(reader);
  reader.leave(outer);
  return result;
}

function familyOf(addressType: string): 4 | 6 | 0 {
  return addressType === 'IPv4' ? 4 : addressType === 'IPv6' ? 6 : 0;
}

/** The value of a map's entry if it is the label of the service. */
function readServiceLabel(reader: WireReader): string | undefined {
  let [key, value] = ['', ''];
  while (reader.next()) {
    if (reader.field === 1) key = reader.string();
    else if (reader.field === 2) value = reader.string();
    else reader.skip();
  }
  return key === SERVICE_LABEL ? value : undefined;
}

function readEndpoint(reader: WireReader): RawEndpoint {
  const addresses: string[] = [];
  let condition: BackendCondition | undefined;
  let hostname = '';
  while (reader.next()) {
    if (reader.field === 1) addresses.push(reader.string());
    else if (reader.field === 2) condition = within(reader, readCondition);
    else if (reader.field === 3) hostname = reader.string();
    else reader.skip();
    if (addresses.length > MAX_ADDRESSES) throw new BadValue(`more than ${MAX_ADDRESSES} addresses of one endpoint`);
  }
  return { addresses, condition, hostname };
}

/** As Cilium reads them: what is not said is ready, and serving as far as it is ready. */
function readCondition(reader: WireReader): BackendCondition | undefined {
  let [ready, serving, terminating]: (boolean | undefined)[] = [];
  while (reader.next()) {
    if (reader.field === 1) ready = reader.bool();
    else if (reader.field === 2) serving = reader.bool();
    else if (reader.field === 3) terminating = reader.bool();
    else reader.skip();
  }
  if (ready !== false) return undefined;
  if (serving !== true) return 'not-ready';
  return terminating === true ? 'terminating' : undefined;
}

/** None for a port that stands for all ports: nothing can be led there. */
function readPort(reader: WireReader): ServicePort[] {
  let [name, protocol] = ['', 'TCP'];
  let port: number | undefined;
  while (reader.next()) {
    if (reader.field === 1) name = reader.string();
    else if (reader.field === 2) protocol = reader.string();
    else if (reader.field === 3) port = reader.number();
    else reader.skip();
  }
  if (port === undefined) return [];
  if (port < 1 || port > 65535) throw new BadValue(`port ${port} is none`);
  return [{ name, protocol, port }];
}

/** An address that is listed twice is as ready as its best entry says. */
function backendsOf(endpoints: readonly RawEndpoint[], family: 4 | 6): Pick<EndpointSlice, 'backends' | 'hostnames'> {
  const backends = new Map<string, BackendCondition | undefined>();
  const hostnames = new Map<string, string>();
  for (const { addresses, condition, hostname } of endpoints) {
    for (const text of addresses) {
      const address = parseAddress(text);
      if (address?.family !== family) throw new BadValue(`${quoted(text)} is no IPv${family} address`);
      const key = formatAddress(address);
      backends.set(key, backends.has(key) ? betterOf(backends.get(key), condition) : condition);
      // One that is no name is left out: nothing but a name hangs on it.
      if (HOSTNAME.test(hostname)) hostnames.set(key, hostname);
    }
  }
  return { backends, hostnames };
}

/** Ready before terminating before not ready. */
export function betterOf(
  a: BackendCondition | undefined,
  b: BackendCondition | undefined,
): BackendCondition | undefined {
  if (a === undefined || b === undefined) return undefined;
  return a === 'terminating' || b === 'terminating' ? 'terminating' : 'not-ready';
}
