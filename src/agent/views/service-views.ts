import type {
  BackendRecord,
  BalancedRecord,
  KernelServiceRecord,
  ServiceRecord,
  StatusRecord,
} from '../../api/types.ts';
import type { PortsByAddress } from '../../kvstore/codec/service.ts';
import { BACKEND_STATES, type BackendView, type ServiceView } from '../../service/result.ts';
import { emptyCounts } from '../../service/tally.ts';
import type { Agent } from '../agent.ts';
import { serviceFact, serviceKeys } from '../services/service-facts.ts';

/** One record for each service that a cluster announces, with what this machine makes of it. */
export function* serviceViews(agent: Agent): Iterable<ServiceRecord> {
  const { dns } = agent.config;
  const { tables } = agent;
  const keys = [...serviceKeys(tables)].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  let known: { readonly name: string; readonly views: readonly ServiceView[] } | undefined;
  for (const key of keys) {
    const service = serviceFact(tables, key);
    if (service === undefined) continue;
    const name = nameOf(key);
    // Records of one name follow each other, and share what was worked out.
    if (known?.name !== name) known = { name, views: agent.config.services.enabled ? viewsOf(agent, name) : [] };
    const balanced = known.views.find(({ clusters }) => clusters.includes(service.cluster));
    yield {
      cluster: service.cluster,
      namespace: service.namespace,
      name: service.name,
      shared: service.shared,
      global: service.includeExternal,
      frontends: portTexts(service.frontends),
      backends: portTexts(service.backends),
      ...(balanced !== undefined && dns.enabled && { names: agent.dns.namesOf(service, balanced.global) }),
      ...(balanced !== undefined && { balanced: balancedRecord(balanced, service.cluster) }),
    };
  }
}

/** `<cluster>/<namespace>/<name>` without the cluster. */
const nameOf = (key: string): string => key.slice(key.indexOf('/') + 1);

function viewsOf(agent: Agent, name: string): ServiceView[] {
  return [...agent.services.model.views(name)];
}

function balancedRecord(view: ServiceView, cluster: string): BalancedRecord {
  const { affinity, clusters, frontends, backends, problems } = view;
  return {
    scope: view.global ? 'global' : 'own',
    affinity,
    clusters,
    refused: frontends
      .filter((each) => each.cluster === cluster)
      .flatMap(({ refused, ...frontend }) =>
        refused === undefined ? [] : [{ frontend: endText(frontend.address, frontend), reason: refused }],
      ),
    backends: backends.map(backendRecord),
    problems,
  };
}

function backendRecord({ cluster, address, ports, state, serving, reason, since }: BackendView): BackendRecord {
  const addresses = ports.map((port) => endText(address, port));
  return { cluster, addresses, state, serving, ...(reason !== undefined && { reason }), since };
}

function portTexts(ports: PortsByAddress): string[] {
  return [...ports].flatMap(([address, list]) => list.map((port) => endText(address, port)));
}

function endText(address: string, { port, protocol }: { readonly port: number; readonly protocol: string }): string {
  return `${address.includes(':') ? `[${address}]` : address}:${port}/${protocol}`;
}

const PROTOCOLS: Readonly<Record<number, string>> = { 6: 'TCP', 17: 'UDP', 132: 'SCTP' };

export async function kernelServiceViews(agent: Agent): Promise<KernelServiceRecord[]> {
  const frontends = await agent.datapath.dumpServices();
  return frontends
    .map(({ address, protocol, port, sticky, connections, at, targets }): KernelServiceRecord => {
      const owner = agent.services.model.ownerOf(`${address} ${protocol} ${port}`);
      const name = PROTOCOLS[protocol] ?? String(protocol);
      return {
        frontend: endText(address, { port, protocol: name }),
        ...(owner !== undefined && { service: owner.name, scope: owner.global ? 'global' : 'own' }),
        sticky,
        connections,
        at,
        backends: targets.map((target) => ({
          address: endText(target.address, { port: target.port, protocol: name }),
          slots: target.slots,
        })),
      };
    })
    .sort((a, b) => (a.frontend < b.frontend ? -1 : 1));
}

/** For `status`; undefined when services are off, or the kernel cannot do them. */
export function servicesSummary(agent: Agent): StatusRecord['services'] {
  if (!agent.config.services.enabled || agent.datapath.status.balances === false) return undefined;
  const { model, lost } = agent.services;
  const { services: led } = agent.datapath.status;
  const backends = emptyCounts();
  let withoutBackend = 0;
  for (const tally of model.tallies()) {
    for (const state of BACKEND_STATES) backends[state] += tally.backends[state];
    if (tally.frontends > 0 && tally.serving === 0) withoutBackend++;
  }
  return {
    frontends: model.frontends.size,
    ...(led !== undefined && { led }),
    backends,
    withoutBackend,
    lostClusters: [...lost].sort(),
    problems: model.problems.size,
  };
}
