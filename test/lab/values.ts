/**
 * Keys and values of a clustermesh store as Cilium 1.16 writes them (kvstore specification, sections 1 and 2). Spelled out
 * here once more, on purpose without the product's own paths and codecs: a mistake there must not hide itself in the tests.
 */
export type Kind = 'nodes' | 'endpoints' | 'identities' | 'services' | 'slices';
/** The order in which a cluster writes its facts: what others refer to comes first. */
export const KINDS: readonly Kind[] = ['identities', 'nodes', 'endpoints', 'services'];

/** What a cluster writes that says so in its configuration (Cilium 1.20), after the others. */
export type SliceMode = 'services-and-endpointslices' | 'endpointslices-only';

export function kindsOf(mode: SliceMode | undefined): readonly Kind[] {
  if (mode === undefined) return KINDS;
  return [...KINDS.filter((kind) => kind !== 'services' || mode !== 'endpointslices-only'), 'slices'];
}

const FOLDERS: Record<Kind, string> = {
  nodes: 'nodes',
  endpoints: 'ip',
  identities: 'identities',
  services: 'services',
  slices: 'endpointslices',
};

export type Layout = 'direct' | 'cached';
export type Labels = Readonly<Record<string, string>>;

export const HEARTBEAT = 'cilium/.heartbeat';
export const REGISTRATIONS = 'cilium/state/noderegister/v1/';

export function factKey(cluster: string, layout: Layout, kind: Kind, name: string): string {
  if (layout === 'cached') {
    return `cilium/cache/${FOLDERS[kind]}/v1/${cluster}/${kind === 'identities' ? 'id/' : ''}${name}`;
  }
  return {
    nodes: `cilium/state/nodes/v1/${cluster}/${name}`,
    endpoints: `cilium/state/ip/v1/default/${name}`,
    identities: `cilium/state/identities/v1/id/${name}`,
    services: `cilium/state/services/v1/${cluster}/${name}`,
    slices: `cilium/state/endpointslices/v1/${cluster}/${name}`,
  }[kind];
}

export function configKey(cluster: string): string {
  return `cilium/cluster-config/${cluster}`;
}

export function canaryKey(cluster: string, layout: Layout, kind: Kind): string {
  return `cilium/synced/${cluster}/cilium/${layout === 'cached' ? 'cache' : 'state'}/${FOLDERS[kind]}/v1`;
}

export function configValue(id: number, layout: Layout, max: 255 | 511 = 255, mode?: SliceMode): string {
  return goJson({
    id,
    capabilities: {
      syncedCanaries: true,
      ...(layout === 'cached' && { cached: true }),
      maxConnectedClusters: max,
      ...(mode !== undefined && { endpointSlicesExportMode: mode }),
    },
  });
}

/** The label string of an identity; all labels are Kubernetes'. */
export function labelString(labels: Labels): string {
  return Object.entries(labels)
    .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    .map(([key, value]) => `k8s:${key}=${value};`)
    .join('');
}

export interface NodeFields {
  readonly name: string;
  readonly cluster: string;
  readonly clusterId: number;
  readonly addresses?: readonly { readonly Type: string; readonly IP: string }[];
  readonly range4?: string | undefined;
  readonly range6?: string | undefined;
  readonly healthIpv4?: string | undefined;
  readonly healthIpv6?: string | undefined;
  readonly source?: string;
  readonly labels?: Labels | undefined;
  readonly nodeIdentity?: number;
  readonly bootId?: string;
}

/** A Node, every field in Go's order. */
export function nodeValue(node: NodeFields): string {
  return goJson({
    Name: node.name,
    Cluster: node.cluster,
    IPAddresses: node.addresses === undefined || node.addresses.length === 0 ? null : node.addresses,
    IPv4AllocCIDR: ipNet(node.range4),
    IPv4SecondaryAllocCIDRs: null,
    IPv6AllocCIDR: ipNet(node.range6),
    IPv6SecondaryAllocCIDRs: null,
    IPv4HealthIP: node.healthIpv4 ?? '',
    IPv6HealthIP: node.healthIpv6 ?? '',
    IPv4IngressIP: '',
    IPv6IngressIP: '',
    ClusterID: node.clusterId,
    Source: node.source ?? 'custom-resource',
    EncryptionKey: 0,
    Labels: node.labels === undefined ? null : sorted(node.labels),
    Annotations: null,
    NodeIdentity: node.nodeIdentity ?? 6,
    WireguardPubKey: '',
    BootID: node.bootId ?? '',
  });
}

export interface AddressFields {
  readonly ip: string;
  readonly host?: string;
  readonly identity: number;
  readonly namespace?: string;
  readonly pod?: string;
}

/** An IPIdentityPair of one address or, as `a.b.c.d/n`, of a prefix. */
export function addressValue(fields: AddressFields): string {
  const [ip = '', bits] = fields.ip.split('/');
  return goJson({
    IP: ip,
    Mask: bits === undefined ? null : mask(ip, Number(bits)),
    HostIP: fields.host ?? '',
    ID: fields.identity,
    Key: 0,
    Metadata: '',
    ...(fields.namespace !== undefined && { K8sNamespace: fields.namespace }),
    ...(fields.pod !== undefined && { K8sPodName: fields.pod }),
  });
}

export type Ports = Readonly<Record<string, { readonly Protocol: string; readonly Port: number }>>;

export interface ServiceFields {
  readonly cluster: string;
  readonly clusterId: number;
  readonly namespace: string;
  readonly name: string;
  readonly frontends?: Readonly<Record<string, Ports>>;
  readonly backends?: Readonly<Record<string, Ports>>;
  readonly shared?: boolean;
}

export function serviceValue(service: ServiceFields): string {
  return goJson({
    cluster: service.cluster,
    namespace: service.namespace,
    name: service.name,
    frontends: service.frontends ?? {},
    backends: service.backends ?? {},
    hostnames: {},
    labels: {},
    selector: {},
    includeExternal: service.shared ?? true,
    shared: service.shared ?? true,
    clusterID: service.clusterId,
  });
}

export function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}

function ipNet(prefix: string | undefined): { IP: string; Mask: string } | null {
  if (prefix === undefined) return null;
  const [ip = '', bits = ''] = prefix.split('/');
  return { IP: ip, Mask: mask(ip, Number(bits)) };
}

/** Go's net.IPMask: base64 of the bytes. */
export function mask(ip: string, bits: number): string {
  const bytes = Buffer.alloc(ip.includes(':') ? 16 : 4);
  for (let bit = 0; bit < bits; bit++) bytes.writeUInt8(bytes.readUInt8(bit >> 3) | (128 >> (bit & 7)), bit >> 3);
  return bytes.toString('base64');
}

function sorted(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function goJson(value: unknown): string {
  return JSON.stringify(value).replace(/[<>&]/g, (char) => `\\u00${char.charCodeAt(0).toString(16)}`);
}
