import { type AskOptions, askList, askRecord } from './ask.ts';
import type { AgentChecksRecord } from './doctor-types.ts';
import type { FlowParameters } from './flow-query.ts';
import type { FlowEvent } from './flow-types.ts';
import type { NodeHealthRecord } from './node-health-types.ts';
import type {
  AppliedPolicyRecord,
  ApplyAnswer,
  ApplyRequest,
  ExplainAnswer,
  ExplainRequest,
  NameRecord,
} from './policy-types.ts';
import type {
  DrainRecord,
  EndpointFilter,
  EndpointRecord,
  IdentityRecord,
  IpcacheRecord,
  KernelAddressRecord,
  KernelConnectionRecord,
  KernelPolicyRecord,
  KernelServiceRecord,
  NodeRecord,
  PolicyDetail,
  PolicyRecord,
  ProbeAnswer,
  ServiceRecord,
  StatusRecord,
} from './types.ts';

/** Fields that the agent compares before it sends a record. */
export interface ListFilter {
  readonly cluster?: string;
  readonly source?: string;
  readonly namespace?: string;
  readonly name?: string;
  readonly direction?: string;
  readonly selector?: string;
}

/**
 * Asks a running agent. Lists are read while they come and never held whole. Every call may throw MeshError:
 * API-UNREACHABLE, API-DENIED, or what the agent answered.
 */
export interface AgentClient {
  status(): Promise<StatusRecord>;
  endpoints(filter: EndpointFilter): AsyncIterable<EndpointRecord>;
  identities(filter?: ListFilter): AsyncIterable<IdentityRecord>;
  identity(id: string): Promise<IdentityRecord>;
  nodes(filter?: ListFilter): AsyncIterable<NodeRecord>;
  nodeHealth(filter?: ListFilter): AsyncIterable<NodeHealthRecord>;
  probeNodes(): Promise<ProbeAnswer>;
  services(filter?: ListFilter): AsyncIterable<ServiceRecord>;
  ipcache(filter?: ListFilter): AsyncIterable<IpcacheRecord>;
  ipcacheGet(address: string): Promise<IpcacheRecord>;
  policies(filter?: ListFilter): AsyncIterable<PolicyRecord>;
  policy(name: string): Promise<PolicyDetail>;
  kernelIpcache(filter?: ListFilter): AsyncIterable<KernelAddressRecord>;
  kernelConnections(filter?: ListFilter): AsyncIterable<KernelConnectionRecord>;
  kernelPolicy(filter?: ListFilter): AsyncIterable<KernelPolicyRecord>;
  kernelServices(filter?: ListFilter): AsyncIterable<KernelServiceRecord>;
  names(filter?: ListFilter): AsyncIterable<NameRecord>;
  /** Ends by itself unless it follows; then by the signal. */
  flows(query: FlowParameters, signal?: AbortSignal): AsyncIterable<FlowEvent>;
  doctor(): Promise<AgentChecksRecord>;
  explain(request: ExplainRequest): Promise<ExplainAnswer>;
  applyPolicies(request: ApplyRequest): Promise<ApplyAnswer>;
  deletePolicy(name: string): Promise<AppliedPolicyRecord>;
  drain(): Promise<DrainRecord>;
  setDrain(draining: boolean): Promise<DrainRecord>;
}

/** More than the agent gives itself. */
const DOCTOR_MS = 16_000;

export type ClientOptions = Pick<AskOptions, 'socket' | 'silenceMs'>;

export function openClient(options: ClientOptions): AgentClient {
  const list = <T>(path: string, query: object = {}): AsyncIterable<T> => askList<T>(options, withQuery(path, query));
  const record = <T>(path: string): Promise<T> => askRecord<T>(options, path);
  return {
    status: () => record('/v1/status'),
    drain: () => record('/v1/drain'),
    setDrain: (draining) => askRecord(options, '/v1/drain', { method: 'PUT', body: { draining } }),
    endpoints: ({ all, ...filter }) => list('/v1/endpoints', { ...filter, ...(all && { all: '1' }) }),
    identities: (filter) => list('/v1/identities', filter),
    identity: (id) => record(`/v1/identities/${encodeURIComponent(id)}`),
    nodes: (filter) => list('/v1/nodes', filter),
    nodeHealth: (filter) => list('/v1/health', filter),
    probeNodes: () => askRecord(options, '/v1/health', { method: 'POST' }),
    services: (filter) => list('/v1/services', filter),
    ipcache: (filter) => list('/v1/ipcache', filter),
    ipcacheGet: (address) => record(`/v1/ipcache/${encodeURIComponent(address)}`),
    policies: (filter) => list('/v1/policies', filter),
    policy: (name) => record(`/v1/policies/${encodeURIComponent(name)}`),
    kernelIpcache: (filter) => list('/v1/kernel/ipcache', filter),
    kernelServices: (filter) => list('/v1/kernel/services', filter),
    kernelConnections: (filter) => list('/v1/kernel/connections', filter),
    kernelPolicy: (filter) => list('/v1/kernel/policy', filter),
    names: (filter) => list('/v1/names', filter),
    flows: (query, signal) => askList({ ...options, ...(signal && { signal }) }, withQuery('/v1/flows', query)),
    // It says nothing before it is done.
    doctor: () => askRecord({ ...options, silenceMs: DOCTOR_MS }, '/v1/doctor'),
    explain: (body) => askRecord(options, '/v1/explain', { method: 'POST', body }),
    applyPolicies: (body) => askRecord(options, '/v1/policies', { method: 'POST', body }),
    deletePolicy: (name) => askRecord(options, `/v1/policies/${encodeURIComponent(name)}`, { method: 'DELETE' }),
  };
}

function withQuery(path: string, query: object): string {
  const given = Object.entries(query).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  return given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
}
