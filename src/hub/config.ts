import { isIP } from 'node:net';
import { ConfigErrors } from '../config/config-errors.ts';
import { KEYS } from '../config/keys.ts';
import {
  choice,
  endpoint,
  isLoopback,
  list,
  listenAddress,
  path,
  splitListen,
  text,
  Unacceptable,
  type ValueKind,
} from '../config/values.ts';
import { MeshError } from '../core/errors.ts';
import { contains, formatPrefix, type Prefix, parsePrefix } from '../core/ip.ts';
import { isDnsName } from '../core/kubernetes-names.ts';
import { readStrictYaml } from './strict-yaml.ts';

/** `hub.yaml`, as docs/hub.md describes it: every key has its value. */
export interface HubConfig {
  readonly cluster: { readonly name: string; readonly id: number };
  /** The same in every cluster of the mesh. */
  readonly maxConnectedClusters: 255 | 511;
  /** Canonical prefixes, disjoint. */
  readonly pools: readonly string[];
  /** Where services on machines have their addresses: canonical prefixes, disjoint from each other and from `pools`. */
  readonly services: {
    readonly pools: readonly string[];
    /** How long a machine without a connection to any hub still serves, seconds; zero: as long as it is registered. */
    readonly unreachableAfter: number;
  };
  /** `host:port`. */
  readonly listen: { readonly etcd: string; readonly enrolment: string };
  /** Names and addresses of the server's certificate; the first is told to machines. Never empty. */
  readonly names: readonly string[];
  readonly etcd: {
    /** Empty: an etcd of its own. */
    readonly endpoints: readonly string[];
    /** The authority of their certificates, if not the internal one of the hub: a path. */
    readonly ca?: string;
    /** Where the own etcd listens for the hub, and where for itself: `host:port` on loopback. */
    readonly client: string;
    readonly peer: string;
    /** Bytes, for the own etcd. */
    readonly quota: number;
  };
  /** Life of the certificates of machines, seconds; they renew them at two thirds of it. */
  readonly certificates: { readonly life: number };
  /** The kubeconfig of a cluster whose policies and external workloads are taken over: an absolute path. */
  readonly kubernetes: { readonly config?: string };
  /** `host:port`, or empty for none. */
  readonly metrics: { readonly listen: string };
  readonly log: {
    readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error';
    readonly format: 'auto' | 'json' | 'pretty';
  };
}

/** Keys that a reload takes over while the hub runs; any other key counts from the next start on. */
export const HUB_LIVE_KEYS = ['log.level', 'metrics.listen'] as const;

/** What `hub.yaml` may leave out, in text. */
export const HUB_DEFAULTS = {
  etcd: '0.0.0.0:2379',
  enrolment: '0.0.0.0:8443',
  quota: '2Gi',
  unreachableAfter: '60s',
  life: '7d',
  metrics: '127.0.0.1:9965',
} as const;

const MIB = 1 << 20;

const listen = text(
  'an address and port such as 0.0.0.0:2379',
  (value) =>
    value !== '' && /^[0-9.]+:|^\[/.test(value) && accepts(listenAddress, value) && splitListen(value)?.port !== 0,
);
const loopback = text(
  'a loopback address and port such as 127.0.0.1:2381',
  (value) => accepts(listen, value) && isLoopback(splitListen(value)?.host ?? ''),
);
const serverName = text('a DNS name in lower case or an address', (value) => isIP(value) !== 0 || isDnsName(value));
const secureEndpoint = text(
  'an https:// URL of a host and a port',
  (value) => value.startsWith('https://') && accepts(endpoint, value),
);
/** Room for machines: the smallest range is that of one machine. */
const pool: ValueKind<string> = {
  expects: 'a prefix such as 10.192.0.0/16',
  read(value) {
    const prefix = typeof value === 'string' && value.includes('/') ? parsePrefix(value) : undefined;
    if (prefix === undefined) throw new Unacceptable(`${JSON.stringify(value)} is not ${pool.expects}`);
    const canonical = formatPrefix(prefix);
    if (canonical !== value) throw new Unacceptable(`${value} has bits behind its length: write ${canonical}`);
    const longest = prefix.family === 4 ? 30 : 126;
    if (prefix.bits > longest) throw new Unacceptable(`${value} has no room: /${longest} is the smallest`);
    return canonical;
  },
  fromText: (value) => value,
};
const quota: ValueKind<number> = {
  expects: 'a size of 64Mi to 64Gi such as 2Gi',
  read(value) {
    const match = typeof value === 'string' ? /^([1-9][0-9]{0,5})(Mi|Gi)$/.exec(value) : null;
    const bytes = Number(match?.[1] ?? 0) * (match?.[2] === 'Gi' ? 1024 * MIB : MIB);
    if (bytes < 64 * MIB || bytes > 65_536 * MIB)
      throw new Unacceptable(`${JSON.stringify(value)} is not ${quota.expects}`);
    return bytes;
  },
  fromText: (value) => value,
};

const life: ValueKind<number> = {
  expects: 'a time of 10m to 90d such as 7d',
  read(value) {
    const match = typeof value === 'string' ? /^([1-9][0-9]{0,4})(m|h|d)$/.exec(value) : null;
    const unit = match?.[2] === 'd' ? 86_400 : match?.[2] === 'h' ? 3600 : 60;
    const seconds = Number(match?.[1] ?? 0) * unit;
    if (seconds < 600 || seconds > 90 * 86_400)
      throw new Unacceptable(`${JSON.stringify(value)} is not ${life.expects}`);
    return seconds;
  },
  fromText: (value) => value,
};

/** Shorter than a hub needs to come back, or to be sure that a machine is gone, would be a false alarm each time. */
const unreachableAfter: ValueKind<number> = {
  expects: 'a time of 15s to 10m such as 60s, or 0 for never',
  read(value) {
    if (value === 0 || value === '0') return 0;
    const match = typeof value === 'string' ? /^([1-9][0-9]{0,2})(s|m)$/.exec(value) : null;
    const seconds = Number(match?.[1] ?? 0) * (match?.[2] === 'm' ? 60 : 1);
    if (seconds < 15 || seconds > 600)
      throw new Unacceptable(`${JSON.stringify(value)} is not ${unreachableAfter.expects}`);
    return seconds;
  },
  fromText: (value) => value,
};

const HUB_KEYS = {
  'cluster.name': KEYS['cluster.name'].kind,
  'cluster.id': KEYS['cluster.id'].kind,
  maxConnectedClusters: KEYS.maxConnectedClusters.kind,
  pools: list(pool, 'prefixes'),
  'services.pools': list(pool, 'prefixes'),
  'services.unreachableAfter': unreachableAfter,
  'listen.etcd': listen,
  'listen.enrolment': listen,
  names: list(serverName, 'DNS names and addresses'),
  'etcd.endpoints': list(secureEndpoint, 'https:// URLs'),
  'etcd.ca': KEYS['kvstore.ca'].kind,
  'etcd.client': loopback,
  'etcd.peer': loopback,
  'etcd.quota': quota,
  'certificates.life': life,
  'kubernetes.config': path,
  'metrics.listen': listenAddress,
  'log.level': choice('trace', 'debug', 'info', 'warn', 'error'),
  'log.format': choice('auto', 'json', 'pretty'),
} as const satisfies Record<string, ValueKind<unknown>>;

const REQUIRED = ['cluster.name', 'cluster.id', 'names'] as const;
type Values = { readonly [K in keyof typeof HUB_KEYS]?: ReturnType<(typeof HUB_KEYS)[K]['read']> };

/**
 * Reads `hub.yaml` from its text. @throws ConfigErrors with every problem, each with `file:line`
 */
export function parseHubConfig(yaml: string, file: string): HubConfig {
  const problems: MeshError[] = [];
  const { values: found, placeOf } = readStrictYaml({ text: yaml, file, keys: HUB_KEYS, problems });
  const values = found as Values;
  const problem = (key: string, detail: string): void => {
    problems.push(new MeshError('HUB-CONFIG', `${key}: ${detail}`, { place: placeOf(key) }));
  };
  if (problems.length === 0) {
    for (const key of REQUIRED) if (values[key] === undefined) problem(key, 'it is missing');
  }
  const config = assemble(values);
  if (problems.length === 0) check(config, problem);
  if (problems.length > 0) throw new ConfigErrors(problems);
  return config;
}

function assemble(values: Values): HubConfig {
  const etcd = values['listen.etcd'] ?? HUB_DEFAULTS.etcd;
  return {
    cluster: { name: values['cluster.name'] ?? '', id: values['cluster.id'] ?? 0 },
    maxConnectedClusters: values.maxConnectedClusters ?? 255,
    pools: values.pools ?? [],
    services: {
      pools: values['services.pools'] ?? [],
      unreachableAfter: values['services.unreachableAfter'] ?? unreachableAfter.read(HUB_DEFAULTS.unreachableAfter),
    },
    listen: { etcd, enrolment: values['listen.enrolment'] ?? HUB_DEFAULTS.enrolment },
    names: values.names ?? [],
    etcd: {
      endpoints: values['etcd.endpoints'] ?? [],
      ...(values['etcd.ca'] !== undefined && { ca: values['etcd.ca'] }),
      client: values['etcd.client'] ?? besides(etcd, 2),
      peer: values['etcd.peer'] ?? besides(etcd, 1),
      quota: values['etcd.quota'] ?? quota.read(HUB_DEFAULTS.quota),
    },
    certificates: { life: values['certificates.life'] ?? life.read(HUB_DEFAULTS.life) },
    kubernetes: { ...(values['kubernetes.config'] !== undefined && { config: values['kubernetes.config'] }) },
    metrics: { listen: values['metrics.listen'] ?? HUB_DEFAULTS.metrics },
    log: { level: values['log.level'] ?? 'info', format: values['log.format'] ?? 'auto' },
  };
}

/** A port near another one, on loopback. */
function besides(listenAt: string, distance: number): string {
  const { host, port } = splitListen(listenAt) ?? { host: '', port: 2379 };
  return `${isLoopback(host) && !host.includes(':') ? host : '127.0.0.1'}:${port + distance}`;
}

function check(config: HubConfig, problem: (key: string, detail: string) => void): void {
  if (config.cluster.id > config.maxConnectedClusters)
    problem('cluster.id', `${config.cluster.id} is above maxConnectedClusters (${config.maxConnectedClusters})`);
  if (config.names.length === 0) problem('names', 'one name or address at least: machines must find the hub');
  const { listen: open, etcd } = config;
  const places = [open.etcd, open.enrolment, etcd.client, etcd.peer];
  if (new Set(places).size < places.length) problem('listen', `two of ${places.join(', ')} are the same`);
  const { pools, services } = config;
  const ranges = [...pools, ...services.pools].map((each) => parsePrefix(each) as Prefix);
  ranges.forEach((one, index) => {
    const other = ranges.slice(0, index).find((before) => contains(before, one) || contains(one, before));
    const key = index < pools.length ? 'pools' : 'services.pools';
    if (other !== undefined) problem(key, `${formatPrefix(one)} and ${formatPrefix(other)} overlap`);
  });
}

function accepts<T>(kind: ValueKind<T>, value: unknown): boolean {
  try {
    kind.read(value);
    return true;
  } catch (error) {
    if (error instanceof Unacceptable) return false;
    throw error;
  }
}
