/**
 * The records that the agent shows. The local API, the command line, metrics and the debug bundle render these same
 * records. Names are stable: fields are added, never renamed or given another meaning. Times are milliseconds since the
 * epoch; `undefined` is left out of the JSON.
 */
import type { ErrorCode } from '../core/errors.ts';
import type { BackendState } from '../service/result.ts';
import type { AgentChecksRecord } from './doctor-types.ts';
import type { FlowQuery } from './flow-query.ts';
import type { FlowEvent } from './flow-types.ts';
import type { NodeHealthRecord, NodeHealthSummary } from './node-health-types.ts';
import type {
  AppliedPolicyRecord,
  ApplyAnswer,
  ApplyRequest,
  ExplainAnswer,
  ExplainRequest,
  NameRecord,
} from './policy-types.ts';

export const API_VERSION = 'mesh-agent/v1';

/** The answer when there is none. */
export interface ErrorRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'Error';
  readonly code: ErrorCode;
  readonly message: string;
  readonly place?: string;
  readonly remedy: string;
}

/** Something that an operator should know, with what to do about it. */
export interface HealthRecord {
  readonly code: ErrorCode;
  /** `error`: something promised is not kept. `warning`: it is kept, but look at it. */
  readonly severity: 'error' | 'warning';
  /** The part of the agent: `kvstore`, `cluster/b`, `policy/x.yaml`, `datapath`, `overlay`, `config`. */
  readonly subject: string;
  readonly text: string;
  /** File and line, key of the store, endpoint, device. */
  readonly place?: string;
  readonly remedy: string;
  readonly since: number;
}

/** The configuration in force, and what came of the last reload. */
export interface ConfigurationRecord {
  readonly files: readonly string[];
  readonly readAt: number;
  /** Reloads that were asked for, and those that are over. */
  readonly requested: number;
  readonly completed: number;
  /** Keys that the last reload gave another value. */
  readonly changed: readonly string[];
  /** Keys whose new value counts from the next start on. */
  readonly waiting: readonly string[];
  /** Why the last reload changed nothing; empty when it was taken over. */
  readonly problems: readonly {
    readonly code: ErrorCode;
    readonly message: string;
    readonly place?: string;
    readonly remedy: string;
  }[];
}

/** A store that we are connected to, or try to be. */
export interface StoreRecord {
  readonly state: 'connecting' | 'connected' | 'failed' | 'closed';
  readonly since: number;
  readonly endpoints: readonly string[];
  readonly endpoint?: string;
  readonly clusterId?: string;
  readonly hasQuorum: boolean;
  readonly lastHeartbeat?: number;
  readonly reconnections: number;
  readonly failures: number;
  readonly lastFailure?: { readonly at: number; readonly code: string; readonly message: string };
  readonly leases: number;
  /** One line, in the words of `cilium-dbg status`. */
  readonly summary: string;
}

/** A cluster whose facts we follow. `joined` is the one that this machine is a workload of. */
export interface ClusterRecord {
  readonly name: string;
  readonly id?: number;
  readonly kind: 'joined' | 'remote' | 'cached';
  readonly ready: boolean;
  readonly connected: boolean;
  /** Why it is not ready: what it waits for, or what is wrong. */
  readonly reason?: string;
  readonly config: {
    readonly required: boolean;
    readonly retrieved: boolean;
    readonly clusterId?: number;
    readonly kvstoremesh: boolean;
    readonly syncCanaries: boolean;
    /** Of clusters that write endpoint slices (Cilium 1.20). */
    readonly endpointSlicesExportMode?: string;
  };
  readonly synced: {
    readonly nodes: boolean;
    readonly endpoints: boolean;
    readonly identities: boolean;
    readonly services: boolean;
    readonly endpointSlices?: boolean;
  };
  readonly numNodes: number;
  readonly numEndpoints: number;
  readonly numIdentities: number;
  readonly numServices: number;
  readonly numEndpointSlices?: number;
  /** Values that were refused at the door and are not in force. */
  readonly numQuarantined: number;
  readonly store: StoreRecord;
  /** When its facts were last known to be present: now while connected, else the time of the loss. */
  readonly freshAt?: number;
}

/** A value of a store that was refused. */
export interface QuarantineRecord {
  readonly cluster: string;
  readonly key: string;
  readonly reason: string;
  readonly since: number;
}

export interface DeviceRecord {
  readonly name: string;
  readonly index: number;
  /** `external` is judged, `internal` is inside the machine, `overlay` is ours, `loopback` is never judged. */
  readonly role: 'external' | 'internal' | 'overlay' | 'loopback';
  readonly kind: string;
  readonly up: boolean;
  readonly mtu: number;
  readonly addresses: readonly string[];
  /** Why it has this role. */
  readonly reason: string;
}

/** A flow that passes whatever the policy says. */
export interface AllowanceRecord {
  readonly direction: 'ingress' | 'egress' | 'both';
  readonly what: string;
  readonly why: string;
}

/** A service of the hub that has this machine as a backend. */
export interface ServedRecord {
  /** `<namespace>/<name>` */
  readonly service: string;
  /** `unchecked`: it has no checks. `checking`: there is no result yet. */
  readonly state: 'healthy' | 'unhealthy' | 'checking' | 'unchecked';
  readonly since?: number;
  /** Why it is unhealthy. */
  readonly reason?: string;
}

/** Connections that are open to a port that this machine serves. */
export interface OpenConnectionsRecord {
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
  readonly port: number;
  readonly count: number;
}

/** Whether this machine is taken out of rotation, and what is left of it. */
export interface DrainRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'Drain';
  readonly draining: boolean;
  /** Since when it drains. */
  readonly since?: number;
  /** Services that select this machine. */
  readonly services: readonly string[];
  /** Those that still lead new connections here, as the hub publishes it. */
  readonly published: readonly string[];
  /** Open ones of all these services, by port; null when they cannot be counted, and `uncounted` says why. */
  readonly connections: readonly OpenConnectionsRecord[] | null;
  readonly uncounted?: string;
}

export interface RegistrationRecord {
  /** `off`: no join configured. `announced`: phase one is written. `answered`: phase two is being written. */
  readonly state: 'off' | 'connecting' | 'announced' | 'answered' | 'registered' | 'refused';
  readonly since: number;
  /** For whom or what it waits, in words; absent when registered. */
  readonly waitingFor?: string;
  readonly key: string;
  readonly registrations: number;
}

/** It is renewed by itself, with the hub that gave it. */
export interface CertificateRecord {
  readonly notBefore: number;
  readonly notAfter: number;
  /** Serial number, hexadecimal. */
  readonly serial: string;
  readonly renewAt: number;
  readonly renewals: number;
  /** Why it could not be renewed, the last time; absent when it could. */
  readonly lastError?: string;
}

export interface StatusRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'Status';
  /** `ok`, `degraded` (exit code 4) or `not-joined` (exit code 5). */
  readonly state: 'ok' | 'degraded' | 'not-joined';
  readonly agent: {
    readonly version: string;
    readonly commit: string;
    readonly pid: number;
    readonly startedAt: number;
  };
  /** Undefined: an older agent, which does not read it again. */
  readonly configuration?: ConfigurationRecord;
  readonly machine: {
    readonly name: string;
    readonly cluster?: { readonly name: string; readonly id: number };
    readonly identity?: number;
    readonly labels: readonly string[];
    readonly ipv4?: string;
    readonly ipv6?: string;
    readonly ranges: readonly string[];
  };
  readonly registration: RegistrationRecord;
  /** The certificate that a hub gave to this machine. */
  readonly certificate?: CertificateRecord;
  /** The store that the machine joined; also the first of `clusters`. */
  readonly kvstore: StoreRecord;
  readonly clusters: readonly ClusterRecord[];
  readonly counts: {
    readonly nodes: number;
    readonly endpoints: number;
    readonly identities: number;
    readonly services: number;
    readonly globalServices: number;
    readonly ipcache: number;
    readonly quarantined: number;
  };
  /** Services as this machine balances them; absent when it does not. */
  readonly services?: {
    readonly frontends: number;
    /** Where connections are led, and why not at the socket alone; absent where there are no frontends. */
    readonly led?: { readonly at: 'socket' | 'packet' | 'both'; readonly reason?: string };
    readonly backends: Readonly<Record<BackendRecord['state'], number>>;
    /** Services without a backend that serves. */
    readonly withoutBackend: number;
    readonly lostClusters: readonly string[];
    readonly problems: number;
  };
  /** Absent on a machine that no service selects and that is not drained. */
  readonly serving?: {
    /** Since when it wants no new connections. */
    readonly drained?: number;
    readonly services: readonly ServedRecord[];
  };
  /** Absent when names of services are not answered here. */
  readonly dns?: NameServerRecord;
  readonly policy: {
    readonly revision: number;
    readonly mode: 'default' | 'always' | 'never';
    readonly audit: boolean;
    /** `Enabled`, `Disabled`, with ` (Audit)`. */
    readonly ingress: string;
    readonly egress: string;
    readonly policies: number;
    readonly selecting: number;
    readonly invalid: number;
    /** Objects that a document of another source has pushed aside. */
    readonly shadowed: number;
    /** Entries that are narrowed or held back because the host cannot enforce them. */
    readonly heldBack: number;
  };
  readonly datapath: {
    readonly name: 'nftables' | 'bpf' | 'none';
    readonly applied: boolean;
    readonly appliedAt?: number;
    readonly lagMs: number;
    readonly entries: {
      readonly addresses: number;
      readonly prefixes: number;
      readonly policyRows: number;
      readonly classes: number;
      readonly frontends?: number;
      readonly slots?: number;
    };
    readonly error?: { readonly code: string; readonly message: string; readonly since: number };
    readonly healed: number;
    readonly denied: { readonly ingress: CounterRecord; readonly egress: CounterRecord };
    /** What the monitor saw of verdicts, and where others were lost before it saw them. */
    readonly flows?: { readonly seen: number; readonly lost: Readonly<Record<string, number>> };
    /** Packets that were dropped in earnest; by Cilium's reason, they never go back. */
    readonly drops: readonly DropCountRecord[];
  };
  /** The snapshot that a boot without a store begins with. */
  readonly lastGood?: {
    /** When it was written, and when it was last known to be what the stores say. */
    readonly savedAt: number;
    readonly confirmedAt: number;
    /**
     * What the kernel enforces at present. `live`: facts of the stores. `snapshot`: the snapshot. `earlier-run`: what an
     * earlier run left, which is as old as the snapshot or newer.
     */
    readonly enforced: 'live' | 'snapshot' | 'earlier-run';
  };
  readonly routing: {
    readonly mode: 'tunnel' | 'native';
    readonly device?: string;
    readonly mtu?: number;
    readonly routes: number;
    readonly error?: { readonly code: string; readonly message: string; readonly since: number };
  };
  /** Probes between nodes; absent when they are off. */
  readonly nodeHealth?: NodeHealthSummary;
  readonly devices: readonly DeviceRecord[];
  readonly allowances: readonly AllowanceRecord[];
  readonly quarantine: readonly QuarantineRecord[];
  readonly health: readonly HealthRecord[];
}

export interface DropCountRecord {
  readonly reason: number;
  readonly text: string;
  readonly direction: 'ingress' | 'egress';
  readonly packets: number;
  readonly bytes: number;
}

export interface CounterRecord {
  readonly packets: number;
  readonly bytes: number;
}

/** The machine itself (`local`), or an address that a cluster announced. */
export interface EndpointRecord {
  readonly local: boolean;
  readonly id: number;
  readonly name: string;
  readonly cluster: string;
  readonly identity: number;
  readonly labels: readonly string[];
  readonly ipv4?: string;
  readonly ipv6?: string;
  readonly policyIngress: string;
  readonly policyEgress: string;
  readonly status: 'ready' | 'waiting-for-identity' | 'not-ready';
}

export interface IdentityRecord {
  readonly id: number;
  readonly cluster: string;
  readonly labels: readonly string[];
  /** Addresses and prefixes in the ipcache that have it. */
  readonly addresses: number;
}

export interface NodeRecord {
  readonly name: string;
  readonly cluster: string;
  readonly ipv4?: string;
  readonly ipv4Range?: string;
  readonly ipv6?: string;
  readonly ipv6Range?: string;
  readonly source: string;
}

export interface ServiceRecord {
  readonly cluster: string;
  readonly namespace: string;
  readonly name: string;
  readonly shared: boolean;
  readonly global: boolean;
  readonly frontends: readonly string[];
  readonly backends: readonly string[];
  /** Full names in DNS; absent when they are not answered here, or it has none on this machine. */
  readonly names?: readonly string[];
  /** What this machine makes of it; absent when services are off, or the service is not for it. */
  readonly balanced?: BalancedRecord;
}

/** The DNS server for names of services. */
export interface NameServerRecord {
  /** `127.0.0.153:53` */
  readonly listen: string;
  readonly zones: readonly string[];
  readonly serving: boolean;
  /** Whether systemd-resolved sends the zones here; `absent`: there is none; `elsewhere`: for another network namespace. */
  readonly resolved: 'registered' | 'absent' | 'elsewhere' | 'failed' | 'off';
  /** What came, by what became of it, since the start. */
  readonly messages: Readonly<Record<string, number>>;
}

/** Where connections to a service go from this machine. */
export interface BalancedRecord {
  /** `global`: together with what other clusters share under the name. `own`: the joined cluster's alone. */
  readonly scope: 'global' | 'own';
  readonly affinity: 'none' | 'local' | 'remote';
  readonly clusters: readonly string[];
  /** Frontends of the announcing cluster that are not in force, with the reason. */
  readonly refused: readonly { readonly frontend: string; readonly reason: string }[];
  /** Of all clusters. */
  readonly backends: readonly BackendRecord[];
  readonly problems: readonly string[];
}

export interface BackendRecord {
  readonly cluster: string;
  /** `10.1.0.5:8080/TCP`, one for each port. */
  readonly addresses: readonly string[];
  readonly state: BackendState;
  /** Gets new connections. */
  readonly serving: boolean;
  /** Why it is not active. */
  readonly reason?: string;
  readonly since: number;
}

export interface IpcacheRecord {
  /** Always with its length: `10.0.0.1/32`. */
  readonly prefix: string;
  readonly identity: number;
  readonly labels: readonly string[];
  /** `0.0.0.0` for none. */
  readonly tunnelEndpoint: string;
  /** `local`, `kvstore`, `clustermesh`, `node`, `policy`, `reserved`. */
  readonly source: string;
  readonly cluster?: string;
  /** Weaker or later claims on the same address. */
  readonly others?: readonly { readonly cluster: string; readonly source: string; readonly identity: number }[];
}

export interface PolicyRecord {
  /** `CiliumNetworkPolicy/<namespace>/<name>` and so on. */
  readonly name: string;
  readonly kind: string;
  /** `directory:web.yaml`, `kvstore:web`. */
  readonly source: string;
  readonly state: 'in-force' | 'not-selecting' | 'invalid' | 'last-good' | 'shadowed';
  readonly rules: number;
  readonly selecting: boolean;
  readonly directions: readonly string[];
  /** Its denials are reported, not applied. */
  readonly audit: boolean;
  /** Entries that are narrowed or without effect because the host cannot enforce them. */
  readonly heldBack: number;
  /** Errors with place; entries that are held back. */
  readonly messages: readonly string[];
  readonly since: number;
}

export interface PolicyDetail extends PolicyRecord {
  /** The rules after parsing, in the form of `cilium-dbg policy get`. */
  readonly rulesJson: unknown;
}

export interface KernelAddressRecord {
  readonly prefix: string;
  readonly identity: number;
  readonly labels: readonly string[];
  readonly tunnelEndpoint: string;
}

/** One frontend of a service in the kernel. */
export interface KernelServiceRecord {
  /** `10.96.0.1:80/TCP`. */
  readonly frontend: string;
  /** `<namespace>/<name>`; absent when nobody announces it any more. */
  readonly service?: string;
  readonly scope?: 'global' | 'own';
  readonly sticky: boolean;
  /** New connections that the kernel counted since the number of its slots last changed. */
  readonly connections: number;
  /** Where connections are led: as they are made, by their packets, or either (those of this machine, those of others). */
  readonly at: 'socket' | 'packet' | 'both';
  /** None: connections are refused. */
  readonly backends: readonly { readonly address: string; readonly slots: number }[];
}

export interface KernelPolicyRecord {
  readonly direction: 'ingress' | 'egress';
  readonly verdict: 'allow' | 'deny';
  /** Absent for the class of everyone else. */
  readonly identities?: readonly number[];
  readonly classNumber: number;
  readonly protocol: string;
  readonly ports: string;
  readonly packets: number;
  readonly bytes: number;
}

/** One connection as the kernel remembers it, seen from the machine. */
export interface KernelConnectionRecord {
  /** In which it was opened. */
  readonly direction: 'ingress' | 'egress';
  readonly protocol: string;
  /** `10.0.0.1:80`, `[fd00::1]:80`; without a port where the protocol has none. */
  readonly remote: string;
  readonly local: string;
  readonly state: 'opening' | 'open' | 'closing' | 'denied';
  /** Seconds after which it is forgotten if nothing more comes. */
  readonly expiresIn: number;
}

/**
 * What the agent offers to the local API: present facts, looked up at the moment of the call. Lists may be a million
 * long, so they are iterated, never collected. Only `applyPolicies` and `deletePolicy` change anything; `probeNodes` sends packets.
 */
export interface AgentApi {
  drain(): Promise<DrainRecord>;
  /** Throws MeshError AGT-DRAIN when there is no hub that would follow, AGT-STATE when it cannot be kept. */
  setDrain(draining: boolean): Promise<DrainRecord>;
  status(): StatusRecord;
  /** `undefined`, here and below: a place where the list may be interrupted. */
  endpoints(filter: EndpointFilter): Iterable<EndpointRecord | undefined>;
  identities(): Iterable<IdentityRecord | undefined>;
  identity(id: number): IdentityRecord | undefined;
  nodes(): Iterable<NodeRecord>;
  /** Throws MeshError API-NOT-FOUND when probes are off. */
  nodeHealth(): Iterable<NodeHealthRecord>;
  /** Probes all nodes now, and says when it began. Throws as `nodeHealth`. */
  probeNodes(): ProbeAnswer;
  services(): Iterable<ServiceRecord>;
  ipcache(): Iterable<IpcacheRecord>;
  /** Longest match; undefined when the text is no address. */
  ipcacheGet(address: string): IpcacheRecord | undefined;
  policies(): Iterable<PolicyRecord>;
  policy(name: string): PolicyDetail | undefined;
  kernelIpcache(): Promise<Iterable<KernelAddressRecord>>;
  kernelPolicy(): Promise<Iterable<KernelPolicyRecord>>;
  kernelServices(): Promise<Iterable<KernelServiceRecord>>;
  kernelConnections(): Promise<Iterable<KernelConnectionRecord>>;
  names(): Iterable<NameRecord>;
  /** Ends with the past, or follows until the signal says so. */
  flows(query: FlowQuery, signal: AbortSignal): AsyncIterable<FlowEvent>;
  /** Looks at everything that needs the agent's facts, and at its machine; it takes seconds. */
  doctor(): Promise<AgentChecksRecord>;
  /** Throws MeshError when the question makes no sense. */
  explain(request: ExplainRequest): Promise<ExplainAnswer>;
  /** Throws MeshError when they cannot be kept. */
  applyPolicies(request: ApplyRequest): Promise<ApplyAnswer>;
  /** A policy that came by the API; undefined when there is none of that name. */
  deletePolicy(name: string): Promise<AppliedPolicyRecord | undefined>;
}

/** Done when `nodeHealth.begunAt` of the status is `askedAt` or later. */
export interface ProbeAnswer {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'ProbeAnswer';
  readonly askedAt: number;
}

export interface EndpointFilter {
  /** Also those of clusters, not only the machine itself. */
  readonly all: boolean;
  /** `source:key=value,key` and so on, all must match; implies `all`. */
  readonly selector?: string;
  readonly cluster?: string;
}
