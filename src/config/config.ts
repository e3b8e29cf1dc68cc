/** The effective configuration of an agent: every key has its value, paths are absolute. */
export interface Config {
  /** The node name, and the name of the workload object: a DNS-1123 subdomain. */
  readonly name: string;
  /** Learnt at registration; when given, checked against it. */
  readonly cluster?: ClusterName;
  readonly maxConnectedClusters: 255 | 511;
  readonly kvstore: KvstoreConfig;
  /** What is not given is taken from the default route. */
  readonly address: { readonly ipv4?: string; readonly ipv6?: string };
  readonly datapath: 'auto' | 'nftables' | 'bpf' | 'none';
  readonly devices: 'auto' | readonly string[];
  readonly routing: 'tunnel' | 'native';
  readonly tunnel: { readonly protocol: 'vxlan'; readonly port: number };
  readonly enforcement: 'default' | 'always' | 'never';
  readonly audit: boolean;
  readonly failsafe: { readonly ingress: readonly TransportPort[]; readonly egress: readonly TransportPort[] };
  /** What a boot enforces without a snapshot: nothing, or that only the failsafe ports let anybody in. */
  readonly lastGood: { readonly fallback: 'nothing' | 'failsafe' };
  /** Lifetimes of DNS answers for `toFQDNs`, seconds: the least, and what is added for programs that connect late. */
  readonly fqdn: { readonly minTtl: number; readonly grace: number };
  /** Services of the mesh on this machine; names are `<namespace>/<name>`, the grace is in seconds. */
  readonly services: {
    readonly enabled: boolean;
    readonly affinity: Readonly<Record<string, 'default' | 'none' | 'local' | 'remote'>>;
    readonly local?: string;
    readonly onClusterLoss: 'keep' | 'remove';
    readonly lossGrace: number;
    readonly sticky: readonly string[];
    readonly weights: Readonly<Record<string, number>>;
    readonly frontends: readonly string[];
    /** By service, or `default` for those that are not named. */
    readonly checks: Readonly<Record<string, ServiceCheck | 'none'>>;
  };
  /** Probes between nodes; times in seconds. */
  readonly health: {
    readonly enabled: boolean;
    readonly port: number;
    readonly interval: number;
    readonly timeout: number;
  };
  /** Names of services, answered on this machine. */
  readonly dns: {
    readonly enabled: boolean;
    /** `host:port` on the loopback. */
    readonly listen: string;
    /** Without the `svc` in front; at least one of both where it is enabled. */
    readonly domain?: string;
    readonly clusterset?: string;
    /** Seconds. */
    readonly ttl: number;
    readonly resolved: 'auto' | 'off';
    /** Per second. */
    readonly maxQueries: number;
  };
  /** Verdicts kept in memory, and packets told of a second (of each kind and direction). */
  readonly monitor: { readonly buffer: number; readonly rate: number };
  /** Folder of local policies. */
  readonly policies: string;
  /** Folder with one etcd configuration file per remote cluster. */
  readonly clustermesh: string;
  /** `listen` is `host:port`, or empty for no metrics. */
  readonly metrics: { readonly listen: string };
  readonly log: { readonly level: LogLevel; readonly format: 'auto' | 'json' | 'pretty'; readonly file?: string };
  readonly stateDir: string;
  readonly socket: string;
  /** A group, by name or number, that may use the socket besides root. */
  readonly socketGroup?: string;
  /** A peer selector without a cluster matches the machine's own cluster only (policy specification 5.3). */
  readonly policyDefaultLocalCluster: boolean;
  /** Policy specification 11.15. */
  readonly allowLocalhost: 'auto' | 'always' | 'policy';
  /** The machine's named ports, for policies that name a port; names are lower case. */
  readonly namedPorts: readonly NamedPort[];
}

export interface ClusterName {
  readonly name: string;
  readonly id: number;
}

/** Either `config`, or `endpoints` with what belongs to them; neither means that the machine joins nothing. */
export interface KvstoreConfig {
  readonly endpoints: readonly string[];
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly username?: string;
  readonly password?: string;
  /** An etcd configuration file as Cilium reads it. */
  readonly config?: string;
}

/** How this machine checks the backends of a service. Interval and timeout in seconds. */
export interface ServiceCheck {
  readonly type: 'tcp' | 'http';
  /** Of the request; empty for `tcp`. */
  readonly path: string;
  /** The backends' own ports when not given. */
  readonly port?: number;
  readonly interval: number;
  readonly timeout: number;
  /** Results in a row until a backend is healthy again, and until it is not. */
  readonly rise: number;
  readonly fall: number;
}

/** IP protocol number and port. */
export interface TransportPort {
  readonly protocol: 6 | 17 | 132;
  readonly port: number;
}

export interface NamedPort extends TransportPort {
  readonly name: string;
}

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error';
