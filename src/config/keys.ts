import { serviceCheck } from './service-check.ts';
import {
  address,
  atLeast,
  boolean,
  choice,
  duration,
  endpoint,
  integer,
  list,
  listenAddress,
  loopbackListen,
  mapping,
  maxClusters,
  namedPorts,
  optional,
  path,
  prefix,
  text,
  transportPort,
  type ValueKind,
  wordOr,
} from './values.ts';

/** One key of the configuration. The file, the environment, the flags and `config show` all follow this table. */
export interface Key<T> {
  readonly kind: ValueKind<T>;
  readonly help: string;
  /** A reload takes it over while the agent runs; any other key counts from the next start on. */
  readonly live?: true;
  /** Never shown. */
  readonly secret?: true;
}

const key = <T>(kind: ValueKind<T>, help: string): Key<T> => ({ kind, help });
const live = <T>(kind: ValueKind<T>, help: string): Key<T> => ({ kind, help, live: true });

/** RFC 1123 subdomain, as Kubernetes names objects. */
const NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
/** Kvstore specification 3.3. */
const CLUSTER_NAME = /^(?=.{1,32}$)([a-z0-9][-a-z0-9]*)?[a-z0-9]$/;
const DEVICE = /^(?!\.{1,2}$)[^/\s:\p{Cc}]{1,15}$/u;

const name = text('text of lower-case letters, digits, "-" and "." (a DNS name)', (value) => NAME.test(value));
const clusterName = text(
  'text of 1 to 32 lower-case letters, digits and "-" (and not the word default)',
  (value) => CLUSTER_NAME.test(value) && value !== 'default',
);
const domain = text(
  'a domain such as cluster.local',
  (value) => value.length <= 100 && NAME.test(value) && value.split('.').every((label) => label.length <= 63),
);
const anyText = text('text', (value) => value !== '' && !/\p{Cc}/u.test(value));
const isServiceName = (value: string): boolean =>
  value.split('/').length === 2 && value.split('/').every((part) => NAME.test(part));
const service = text('text: namespace/name of a service', isServiceName);
const serviceOrDefault = text(
  'text: namespace/name of a service, or default',
  (value) => value === 'default' || isServiceName(value),
);
const affinity = choice('default', 'none', 'local', 'remote');
const device = text('text: the name of a network device', (value) => DEVICE.test(value));

export const KEYS = {
  name: key(name, 'name of this machine in the mesh'),
  'cluster.name': key(clusterName, 'cluster that this machine joins; learnt when not given'),
  'cluster.id': key(integer('a cluster id (1 to 255, or to 511)', 1, 511), 'id of that cluster'),
  maxConnectedClusters: key(maxClusters, 'how many clusters the mesh may have; the same in every cluster'),
  'kvstore.endpoints': key(list(endpoint, 'URLs'), 'URLs of the store to join'),
  'kvstore.ca': key(optional(path), 'certificate authority of the store'),
  'kvstore.cert': key(optional(path), 'client certificate'),
  'kvstore.key': key(optional(path), 'private key of the client certificate'),
  'kvstore.username': key(optional(anyText), 'user of the store, when it does not go by certificates'),
  'kvstore.password': { ...key(optional(anyText), 'password of that user'), secret: true },
  'kvstore.config': key(optional(path), 'a Cilium etcd configuration file, instead of the keys above'),
  'address.ipv4': live(optional(address(4)), 'IPv4 address of this machine in the mesh'),
  'address.ipv6': live(optional(address(6)), 'IPv6 address of this machine in the mesh'),
  datapath: key(
    choice('auto', 'nftables', 'bpf', 'none'),
    'what enforces; auto: nftables, and services at the socket where the kernel can; bpf: eBPF',
  ),
  devices: live(wordOr('auto', list(device, 'device names')), 'external devices, whose traffic is judged'),
  routing: live(choice('tunnel', 'native'), 'how packets reach other nodes'),
  'tunnel.protocol': key(choice('vxlan'), 'encapsulation'),
  'tunnel.port': key(integer('a port number', 1, 65535), 'UDP port of the tunnel; the same on every node'),
  enforcement: live(choice('default', 'always', 'never'), 'when policies are enforced'),
  audit: live(boolean, 'report denials, do not apply them'),
  'failsafe.ingress': live(list(transportPort, 'ports such as tcp/22'), 'inbound ports that always pass'),
  'failsafe.egress': live(list(transportPort, 'ports such as tcp/22'), 'outbound ports that always pass'),
  'lastGood.fallback': live(
    choice('nothing', 'failsafe'),
    'what a boot enforces when there is no last-good snapshot that can be used',
  ),
  'fqdn.minTtl': live(
    integer('a number of seconds, up to a week', 0, 604_800),
    'DNS answers count for at least so many seconds (tofqdns-min-ttl)',
  ),
  'fqdn.grace': live(
    integer('a number of seconds, up to an hour', 0, 3600),
    'addresses of DNS names stay allowed for so many seconds beyond their lifetime',
  ),
  'services.enabled': live(boolean, 'services of the mesh are reachable by their cluster addresses'),
  'services.affinity': live(
    mapping(affinity, service, '{production/api: local}'),
    'which backends a global service prefers; by namespace/name',
  ),
  'services.local': live(optional(clusterName), 'cluster that counts as local; the joined one when not given'),
  'services.onClusterLoss': live(
    choice('keep', 'remove'),
    'backends of a lost cluster are used when nothing else is left (keep), or not at all (remove)',
  ),
  'services.lossGrace': live(duration, 'time after which a cluster that cannot be reached counts as lost'),
  'services.sticky': live(list(service, 'services'), 'services whose clients stay with one backend (ClientIP)'),
  'services.weights': live(
    mapping(integer('a weight (0 to 100)', 0, 100), clusterName, '{cluster-b: 3}'),
    'share of new connections of each backend of a cluster; 0 for none',
  ),
  'services.frontends': live(
    list(prefix, 'prefixes'),
    'where frontends of remote clusters may lie, besides private addresses',
  ),
  'services.checks': live(
    mapping(serviceCheck, serviceOrDefault, '{production/api: http:/healthz, default: tcp}'),
    'how this machine checks the backends of services: tcp, http:/path or none; not at all when not given',
  ),
  'health.enabled': live(boolean, 'nodes are probed, and probes of nodes are answered'),
  'health.port': live(
    integer('a port number', 1, 65535),
    'TCP port of the probes, the same on every node (cluster-health-port)',
  ),
  'health.interval': live(
    atLeast(duration, 5),
    'time in which every node is probed once (up to 120 addresses; more take longer), at least 5s',
  ),
  'health.timeout': live(atLeast(duration, 1), 'how long a probe waits for an answer, at least 1s'),
  'dns.enabled': live(boolean, 'names of services are answered on this machine'),
  'dns.listen': live(loopbackListen, 'loopback address and port of the DNS server'),
  'dns.domain': live(optional(domain), 'domain of service names (service.namespace.svc.cluster.local); empty for none'),
  'dns.clusterset': live(optional(domain), 'the same for global services alone; empty for none'),
  'dns.ttl': live(
    integer('a number of seconds, up to an hour', 0, 3600),
    'how long answers may be remembered, seconds',
  ),
  'dns.resolved': live(
    choice('auto', 'off'),
    'systemd-resolved is told to ask here for these names (auto), or is left alone (off)',
  ),
  'dns.maxQueries': live(
    integer('a number of queries (10 to 100000)', 10, 100_000),
    'queries that are answered per second; more are dropped',
  ),
  'monitor.buffer': key(
    integer('a number of records (16 to 65535)', 16, 65_535),
    'verdicts that are kept in memory for mesh-agent monitor',
  ),
  'monitor.rate': live(
    integer('packets a second (0 to 10000)', 0, 10_000),
    'dropped packets of each kind and direction that are told of; 0 for none',
  ),
  policies: live(path, 'folder of local policies'),
  clustermesh: key(path, 'folder with one etcd configuration file per remote cluster'),
  'metrics.listen': live(listenAddress, 'address of /metrics, /healthz and /readyz; empty for none'),
  'log.level': live(choice('trace', 'debug', 'info', 'warn', 'error'), 'what is logged'),
  'log.format': key(choice('auto', 'json', 'pretty'), 'form of the log'),
  'log.file': live(optional(path), 'file that the log is appended to; standard error when not given'),
  stateDir: key(path, 'folder of the state'),
  socket: key(path, "the agent's socket"),
  socketGroup: key(optional(anyText), 'group that may use the socket, besides root'),
  policyDefaultLocalCluster: live(boolean, 'peer selectors without a cluster mean the own cluster'),
  allowLocalhost: live(choice('auto', 'always', 'policy'), 'whether the host always reaches its endpoints'),
  namedPorts: live(namedPorts, 'named ports of this machine'),
} satisfies Record<string, Key<unknown>>;

export type KeyName = keyof typeof KEYS;
export type ValueOf<K extends KeyName> = ReturnType<(typeof KEYS)[K]['kind']['read']>;

export const KEY_NAMES = Object.keys(KEYS) as readonly KeyName[];

export function isKey(name: string): name is KeyName {
  return Object.hasOwn(KEYS, name);
}

export function isSecret(name: KeyName): boolean {
  const found: Key<unknown> = KEYS[name];
  return found.secret === true;
}

/** Whether a reload takes the key over while the agent runs. */
export function isLive(name: KeyName): boolean {
  const found: Key<unknown> = KEYS[name];
  return found.live === true;
}

/** `kvstore.endpoints` to `kvstore-endpoints`, `stateDir` to `state-dir`. */
export function flagOf(name: KeyName): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`).replaceAll('.', '-');
}

/** `kvstore.endpoints` to `MESH_AGENT_KVSTORE_ENDPOINTS`. */
export function variableOf(name: KeyName): string {
  return `MESH_AGENT_${flagOf(name).replaceAll('-', '_').toUpperCase()}`;
}
