import { formatAddress, type Prefix, parseAddress, parsePrefix } from '../../core/ip.ts';
import type { NeededFlow } from '../../doctor/machine/foreign-rules.ts';
import { addressFlow } from '../../doctor/machine/foreign-rules.ts';
import type { KnownCluster, PolicyFact } from '../../doctor/mesh/policy-clusters.ts';
import type { OwnedRange, OwnNetwork } from '../../doctor/mesh/ranges.ts';
import type { ServiceFact } from '../../doctor/mesh/services.ts';
import { nodeIp } from '../../kvstore/codec/node.ts';
import type { Agent } from '../agent.ts';

/** The cluster that the machine joined; `kvstore` while that is not known. */
export function joinedName(agent: Agent): string {
  return agent.registration?.registered?.cluster.name ?? agent.config.cluster?.name ?? 'kvstore';
}

/** Ranges of all nodes but this machine. */
export function clusterRanges(agent: Agent): OwnedRange[] {
  const self = `${joinedName(agent)}/${agent.config.name}`;
  return [...agent.tables.nodes.entries()].flatMap(([key, { name, cluster, ranges4, ranges6 }]) =>
    key === self ? [] : [...ranges4, ...ranges6].map((prefix) => ({ prefix, cluster, node: name })),
  );
}

/**
 * Networks that the machine is in. With native routing the addresses of pods may be part of the network outside, which is
 * no mistake then.
 */
export function ownNetworks(agent: Agent): OwnNetwork[] {
  const native = agent.config.routing === 'native';
  return agent.machine.devices
    .filter(({ role }) => role === 'internal' || (role === 'external' && !native))
    .flatMap(({ name, addresses }) =>
      addresses.flatMap((text) => {
        const prefix = networkOf(text);
        return prefix === undefined ? [] : [{ device: name, prefix }];
      }),
    );
}

/** Of `10.0.0.5/24`; undefined for link-local ones. */
function networkOf(text: string): Prefix | undefined {
  const [address = '', bits = ''] = text.split('/');
  const parsed = parseAddress(address);
  if (parsed === undefined || /^(fe80|169\.254)/i.test(address)) return undefined;
  return parsePrefix(`${address}/${bits}`);
}

export function ownRanges(agent: Agent): Prefix[] {
  const { ranges4 = [], ranges6 = [] } = agent.registration?.registered ?? {};
  return [...ranges4, ...ranges6];
}

export function* serviceFacts(agent: Agent): Iterable<ServiceFact> {
  for (const { cluster, namespace, name, includeExternal, shared, backends } of agent.tables.services.values())
    yield { cluster, namespace, name, global: includeExternal, shared, backends: backends.size };
}

export function* policyFacts(agent: Agent): Iterable<PolicyFact> {
  for (const { name, source, state } of agent.repository.list()) {
    if (state === 'shadowed') continue;
    yield { name, source, rules: agent.repository.get(name)?.rulesJson };
  }
}

export function knownClusters(agent: Agent): KnownCluster[] {
  return agent.mesh.list().map(({ cluster }) => ({
    name: cluster.name,
    identities: cluster.countOf('identities'),
  }));
}

/** What must pass: to the stores, to the name servers, and between the ends of the overlay. */
export function neededFlows(agent: Agent, nameServers: readonly string[]): NeededFlow[] {
  const flows: NeededFlow[] = agent.storeAddresses.list().map(({ address, port }) => addressFlow(address, port));
  for (const text of nameServers) {
    const peer = parseAddress(text);
    if (peer !== undefined)
      flows.push({ what: `DNS to ${formatAddress(peer)}`, protocol: 17, port: 53, peer, portAt: 'peer' });
  }
  const { overlay, border } = agent.desired;
  if (overlay !== undefined) {
    const what = `udp/${border.tunnelPort} of the overlay`;
    const peer = firstNode(agent);
    flows.push({ what, protocol: 17, port: border.tunnelPort, portAt: 'both', ...(peer !== undefined && { peer }) });
  }
  return flows;
}

function firstNode(agent: Agent): NeededFlow['peer'] {
  for (const node of agent.tables.nodes.values()) {
    const own = nodeIp(node, 4) ?? nodeIp(node, 6);
    if (own !== undefined && node.name !== agent.config.name) return own;
  }
  return undefined;
}
