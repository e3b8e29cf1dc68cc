import { type AgentApi, API_VERSION, type ConfigurationRecord } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import type { Agent } from '../agent.ts';
import { explain } from '../explain/explain.ts';
import { flowEvents } from '../monitor/flow-events.ts';
import type { NodeHealth } from '../probes/node-health.ts';
import { drainView, setDrain } from './drain-view.ts';
import {
  endpointViews,
  identityView,
  ipcacheGet,
  ipcacheViews,
  kernelAddressViews,
  kernelConnectionViews,
  kernelPolicyViews,
  nameViews,
  nodeViews,
  pacedIdentityViews,
} from './list-views.ts';
import { kernelServiceViews, serviceViews } from './service-views.ts';
import { statusView } from './status-view.ts';

/** What the local API serves: present facts of the agent, as records. */
export function agentApi(agent: Agent, configuration: () => ConfigurationRecord): AgentApi {
  return {
    status: () => ({ ...statusView(agent), configuration: configuration() }),
    drain: () => drainView(agent),
    setDrain: (draining) => setDrain(agent, draining),
    endpoints: (filter) => endpointViews(agent, filter),
    identities: () => pacedIdentityViews(agent),
    identity: (id) => identityView(agent, id),
    nodes: () => nodeViews(agent),
    nodeHealth: () => probesOf(agent).list(),
    probeNodes: () => ({ apiVersion: API_VERSION, kind: 'ProbeAnswer', askedAt: probesOf(agent).probe() }),
    services: () => serviceViews(agent),
    ipcache: () => ipcacheViews(agent),
    ipcacheGet: (address) => ipcacheGet(agent, address),
    policies: () => agent.repository.list(),
    policy: (name) => agent.repository.get(name),
    kernelIpcache: () => kernelAddressViews(agent),
    kernelConnections: () => kernelConnectionViews(agent),
    kernelPolicy: () => kernelPolicyViews(agent),
    kernelServices: () => kernelServiceViews(agent),
    names: () => nameViews(agent),
    flows: (query, signal) => flowEvents(agent.flows, query, signal),
    doctor: () => agent.doctor.ask(),
    explain: (request) => explain(agent, request),
    applyPolicies: (request) => agent.apiPolicies.apply(request),
    deletePolicy: (name) => agent.apiPolicies.delete(name),
  };
}

function probesOf({ nodeHealth }: Agent): NodeHealth {
  if (nodeHealth === undefined)
    throw new MeshError('API-NOT-FOUND', 'probes between nodes are off: health.enabled is false');
  return nodeHealth;
}
