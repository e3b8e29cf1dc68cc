import { MeshError } from '../core/errors.ts';
import type { Config, KvstoreConfig } from './config.ts';
import { KEYS, type KeyName, type ValueOf } from './keys.ts';
import type { Settings } from './settings.ts';
import { isLoopback, quote, splitListen, Unacceptable } from './values.ts';

interface Findings {
  readonly problems: MeshError[];
  readonly warnings: MeshError[];
}

/** Puts the settings together and checks what concerns several keys; undefined when no configuration comes of it. */
export function assemble(settings: Settings, findings: Findings): Config | undefined {
  // Every value was checked by the kind of its own key.
  const get = <K extends KeyName>(name: K): ValueOf<K> => settings.get(name)?.value as ValueOf<K>;
  const checks = new Checks(settings, findings);
  checks.name();
  checks.cluster();
  checks.kvstore();
  checks.dns();
  checks.warnExposed();
  if (findings.problems.length > 0) return undefined;
  const [clusterName, clusterId] = [get('cluster.name'), get('cluster.id')];
  const socketGroup = get('socketGroup');
  const logFile = get('log.file');
  const [ipv4, ipv6] = [get('address.ipv4'), get('address.ipv6')];
  return {
    name: get('name'),
    ...(clusterName !== undefined && { cluster: { name: clusterName, id: clusterId } }),
    maxConnectedClusters: get('maxConnectedClusters'),
    kvstore: kvstoreOf(get),
    address: { ...(ipv4 !== undefined && { ipv4 }), ...(ipv6 !== undefined && { ipv6 }) },
    datapath: get('datapath'),
    devices: get('devices'),
    routing: get('routing'),
    tunnel: { protocol: get('tunnel.protocol'), port: get('tunnel.port') },
    enforcement: get('enforcement'),
    audit: get('audit'),
    lastGood: { fallback: get('lastGood.fallback') },
    failsafe: { ingress: get('failsafe.ingress'), egress: get('failsafe.egress') },
    fqdn: { minTtl: get('fqdn.minTtl'), grace: get('fqdn.grace') },
    services: servicesOf(get),
    health: {
      enabled: get('health.enabled'),
      port: get('health.port'),
      interval: get('health.interval'),
      timeout: get('health.timeout'),
    },
    dns: dnsOf(get),
    monitor: { buffer: get('monitor.buffer'), rate: get('monitor.rate') },
    policies: get('policies'),
    clustermesh: get('clustermesh'),
    metrics: { listen: get('metrics.listen') },
    log: { level: get('log.level'), format: get('log.format'), ...(logFile !== undefined && { file: logFile }) },
    stateDir: get('stateDir'),
    socket: get('socket'),
    ...(socketGroup !== undefined && { socketGroup }),
    policyDefaultLocalCluster: get('policyDefaultLocalCluster'),
    allowLocalhost: get('allowLocalhost'),
    namedPorts: get('namedPorts'),
  };
}

function servicesOf(get: <K extends KeyName>(name: K) => ValueOf<K>): Config['services'] {
  const local = get('services.local');
  return {
    enabled: get('services.enabled'),
    affinity: get('services.affinity'),
    ...(local !== undefined && { local }),
    onClusterLoss: get('services.onClusterLoss'),
    lossGrace: get('services.lossGrace'),
    sticky: get('services.sticky'),
    weights: get('services.weights'),
    frontends: get('services.frontends'),
    checks: get('services.checks'),
  };
}

function dnsOf(get: <K extends KeyName>(name: K) => ValueOf<K>): Config['dns'] {
  const [domain, clusterset] = [get('dns.domain'), get('dns.clusterset')];
  return {
    enabled: get('dns.enabled'),
    listen: get('dns.listen'),
    ...(domain !== undefined && { domain }),
    ...(clusterset !== undefined && { clusterset }),
    ttl: get('dns.ttl'),
    resolved: get('dns.resolved'),
    maxQueries: get('dns.maxQueries'),
  };
}

function kvstoreOf(get: <K extends KeyName>(name: K) => ValueOf<K>): KvstoreConfig {
  const optional = {
    ca: get('kvstore.ca'),
    cert: get('kvstore.cert'),
    key: get('kvstore.key'),
    username: get('kvstore.username'),
    password: get('kvstore.password'),
    config: get('kvstore.config'),
  };
  const given = Object.entries(optional).filter(([, value]) => value !== undefined);
  return { endpoints: get('kvstore.endpoints'), ...Object.fromEntries(given) };
}

class Checks {
  readonly #settings: Settings;
  readonly #findings: Findings;

  constructor(settings: Settings, findings: Findings) {
    this.#settings = settings;
    this.#findings = findings;
  }

  /** The host name is a default like any other, but may be unfit. */
  name(): void {
    if (this.#settings.get('name')?.refused === true) return;
    const name = this.#value('name');
    try {
      KEYS.name.kind.read(name);
    } catch (error) {
      if (!(error instanceof Unacceptable)) throw error;
      const detail = `name: the host name ${quote(name)} cannot be the name of this machine in the mesh; set \`name\``;
      this.#problem('CFG-VALUE', detail, ['name']);
    }
  }

  cluster(): void {
    this.#bothOrNone('cluster.name', 'cluster.id');
    const id = this.#value('cluster.id');
    const max = this.#value('maxConnectedClusters') ?? 511;
    if (typeof id === 'number' && id > Number(max)) {
      const detail = `cluster.id: ${id} is more than the ${max} of maxConnectedClusters`;
      this.#problem('CFG-VALUE', detail, ['cluster.id']);
    }
  }

  kvstore(): void {
    if (this.#given('kvstore.config')) {
      for (const name of BESIDE_CONFIG) {
        if (this.#given(name)) this.#problem('CFG-CONFLICT', `kvstore.config and ${name}`, ['kvstore.config', name]);
      }
      return;
    }
    this.#bothOrNone('kvstore.cert', 'kvstore.key');
    this.#bothOrNone('kvstore.username', 'kvstore.password');
    const first = (['kvstore.ca', 'kvstore.cert', 'kvstore.key', 'kvstore.username'] as const).find((name) =>
      this.#given(name),
    );
    if (first !== undefined && !this.#given('kvstore.endpoints')) {
      this.#problem('CFG-VALUE', `${first} needs kvstore.endpoints as well`, [first]);
    }
  }

  dns(): void {
    if (this.#value('dns.enabled') !== true) return;
    if (this.#value('services.enabled') === false)
      this.#problem('CFG-CONFLICT', 'dns.enabled needs services.enabled', ['dns.enabled', 'services.enabled']);
    if (!this.#given('dns.domain') && !this.#given('dns.clusterset'))
      this.#problem('CFG-VALUE', 'dns.enabled needs dns.domain or dns.clusterset', ['dns.enabled']);
    const domain = this.#value('dns.domain');
    if (domain !== undefined && domain === this.#value('dns.clusterset'))
      this.#problem('CFG-CONFLICT', `dns.domain and dns.clusterset are both ${quote(domain)}`, [
        'dns.domain',
        'dns.clusterset',
      ]);
  }

  warnExposed(): void {
    const listen = splitListen(String(this.#value('metrics.listen') ?? ''));
    if (listen !== undefined && !isLoopback(listen.host)) {
      this.#warn(
        `metrics.listen: ${listen.host} can be reached from the network, without authentication`,
        'metrics.listen',
      );
    }
    const endpoints = (this.#value('kvstore.endpoints') ?? []) as readonly string[];
    const open = endpoints.find((each) => each.startsWith('http:') && !isLoopback(new URL(each).hostname));
    if (open !== undefined) this.#warn(`kvstore.endpoints: ${open} is spoken to without TLS`, 'kvstore.endpoints');
  }

  #bothOrNone(one: KeyName, other: KeyName): void {
    for (const [here, missing] of [
      [one, other],
      [other, one],
    ] as const) {
      if (this.#given(here) && !this.#given(missing)) {
        this.#problem('CFG-VALUE', `${here} needs ${missing} as well`, [here]);
      }
    }
  }

  #value(name: KeyName): unknown {
    return this.#settings.get(name)?.value;
  }

  /** Also when it was refused: one fault is told once. */
  #given(name: KeyName): boolean {
    if (this.#settings.get(name)?.refused === true) return true;
    const value = this.#value(name);
    return value !== undefined && !(Array.isArray(value) && value.length === 0);
  }

  #problem(code: 'CFG-VALUE' | 'CFG-CONFLICT', detail: string, names: readonly KeyName[]): void {
    this.#findings.problems.push(new MeshError(code, detail, { place: this.#places(names) }));
  }

  #warn(detail: string, name: KeyName): void {
    this.#findings.warnings.push(new MeshError('CFG-EXPOSED', detail, { place: this.#places([name]) }));
  }

  #places(names: readonly KeyName[]): string {
    return names.map((name) => this.#settings.get(name)?.origin.place ?? name).join(' and ');
  }
}

const BESIDE_CONFIG = [
  'kvstore.endpoints',
  'kvstore.ca',
  'kvstore.cert',
  'kvstore.key',
  'kvstore.username',
  'kvstore.password',
] as const satisfies readonly KeyName[];
