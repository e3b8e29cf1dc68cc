import {
  type AllowanceRecord,
  API_VERSION,
  type ClusterRecord,
  type DropCountRecord,
  type RegistrationRecord,
  type StatusRecord,
  type StoreRecord,
} from '../../api/types.ts';
import { formatAddress } from '../../core/ip.ts';
import type { VerdictCount } from '../../datapath/datapath.ts';
import type { TransportPort } from '../../datapath/desired.ts';
import { VERDICT_KINDS } from '../../datapath/verdict-log.ts';
import { build } from '../../host/build.ts';
import type { Store } from '../../kvstore/store.ts';
import type { Cluster } from '../../mesh/cluster.ts';
import type { DirectionPolicy } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { savedRegistration } from '../last-good/capture.ts';
import { serviceKeys } from '../services/service-facts.ts';
import { servicesSummary } from './service-views.ts';

const NO_STORE: StoreRecord = {
  state: 'closed',
  since: 0,
  endpoints: [],
  hasQuorum: false,
  reconnections: 0,
  failures: 0,
  leases: 0,
  summary: 'no store is configured',
};

/** Everything that `mesh-agent status` shows, from present facts. */
export function statusView(agent: Agent): StatusRecord {
  const services = servicesSummary(agent);
  const serving = agent.serving.view();
  const dns = agent.dns.record;
  const { registered } = agent.registration ?? {};
  // A machine that enforces its last-good snapshot is what it was when that was written.
  const registration = registered === undefined ? agent.lastGood.registration : savedRegistration(registered);
  const health = agent.health.list();
  const degraded =
    health.some(({ severity }) => severity === 'error') || !agent.reconciler.opened || !isEnforcing(agent);
  return {
    apiVersion: API_VERSION,
    kind: 'Status',
    state: registration === null ? 'not-joined' : degraded ? 'degraded' : 'ok',
    agent: { version: build.version, commit: build.commit, pid: process.pid, startedAt: agent.startedAt },
    machine: {
      name: agent.config.name,
      ...(registration !== null && { cluster: registration.cluster, identity: registration.identity }),
      labels: registration?.labels ?? [],
      ...(agent.machine.ipv4 !== undefined && { ipv4: formatAddress(agent.machine.ipv4) }),
      ...(agent.machine.ipv6 !== undefined && { ipv6: formatAddress(agent.machine.ipv6) }),
      ranges: registration?.ranges ?? [],
    },
    registration: registrationView(agent),
    ...(agent.renewal.status !== undefined && { certificate: agent.renewal.status }),
    kvstore: agent.store === undefined ? NO_STORE : storeView(agent.store),
    clusters: agent.mesh.list().map(({ cluster, store }) => clusterView(agent, cluster, store)),
    counts: countsView(agent),
    ...(services !== undefined && { services }),
    ...(serving !== undefined && { serving }),
    ...(dns !== undefined && { dns }),
    policy: policyView(agent),
    datapath: datapathView(agent),
    ...(agent.lastGood.view !== undefined && { lastGood: agent.lastGood.view }),
    routing: routingView(agent),
    ...(agent.nodeHealth !== undefined && { nodeHealth: agent.nodeHealth.summary() }),
    devices: agent.machine.devices,
    allowances: allowancesView(agent),
    quarantine: agent.tables.quarantine.list(),
    health,
  };
}

function isEnforcing(agent: Agent): boolean {
  return agent.config.datapath === 'none' || agent.datapath.status.applied;
}

export function storeView(store: Store): StoreRecord {
  const { status } = store;
  return {
    state: status.state,
    since: status.since,
    endpoints: status.endpoints,
    ...(status.endpoint !== undefined && { endpoint: status.endpoint }),
    ...(status.clusterId !== undefined && { clusterId: status.clusterId }),
    hasQuorum: status.hasQuorum,
    ...(status.lastHeartbeat !== undefined && { lastHeartbeat: status.lastHeartbeat }),
    reconnections: status.reconnections,
    failures: status.failures,
    ...(status.lastFailure !== undefined && { lastFailure: status.lastFailure }),
    leases: status.leases,
    summary: status.summary,
  };
}

export function clusterView(agent: Agent, cluster: Cluster, store: Store): ClusterRecord {
  const { config } = cluster;
  const { status } = store;
  const connected = status.state === 'connected';
  const reason = cluster.waitingFor;
  const slices = cluster.kinds.includes('slices');
  return {
    name: cluster.name,
    ...(cluster.id !== undefined && { id: cluster.id }),
    kind: cluster.kind,
    ready: cluster.ready,
    connected,
    ...(reason !== undefined && { reason }),
    config: {
      required: cluster.kind !== 'joined',
      retrieved: config !== undefined,
      ...(config !== undefined && { clusterId: config.id }),
      kvstoremesh: config?.cached === true,
      syncCanaries: config?.syncedCanaries === true,
      ...(slices && { endpointSlicesExportMode: config?.sliceMode ?? '' }),
    },
    synced: {
      nodes: cluster.isSynced('nodes'),
      endpoints: cluster.isSynced('endpoints'),
      identities: cluster.isSynced('identities'),
      services: cluster.isSynced('services'),
      ...(slices && { endpointSlices: cluster.isSynced('slices') }),
    },
    numNodes: cluster.countOf('nodes'),
    numEndpoints: cluster.countOf('endpoints'),
    numIdentities: cluster.countOf('identities'),
    numServices: cluster.countOf('services'),
    ...(slices && { numEndpointSlices: cluster.countOf('slices') }),
    numQuarantined: agent.tables.quarantine.countOf(cluster.name),
    store: storeView(store),
    freshAt: connected ? Date.now() : status.since,
  };
}

export function registrationView(agent: Agent): RegistrationRecord {
  const { registration } = agent;
  if (registration === undefined) {
    return {
      state: 'off',
      since: agent.startedAt,
      waitingFor: 'no store to join is configured',
      key: '',
      registrations: 0,
    };
  }
  const waitingFor = registration.waitingFor;
  return {
    state: registration.state,
    since: registration.since,
    ...(waitingFor !== undefined && { waitingFor }),
    key: registration.key,
    registrations: registration.registrations,
  };
}

function countsView(agent: Agent): StatusRecord['counts'] {
  const { tables, mesh } = agent;
  const global = new Set<string>();
  for (const { includeExternal, shared, namespace, name } of tables.services.values())
    if (includeExternal && shared) global.add(`${namespace}/${name}`);
  let services = 0;
  for (const key of serviceKeys(tables)) {
    services++;
    // A cluster that announces slices alone announces only what it shares.
    if (tables.services.get(key) === undefined) global.add(key.slice(key.indexOf('/') + 1));
  }
  return {
    nodes: tables.nodes.size,
    endpoints: mesh.list().reduce((sum, { cluster }) => sum + cluster.countOf('endpoints'), 0),
    identities: tables.identities.size,
    services,
    globalServices: global.size,
    ipcache: tables.ipcache.size,
    quarantined: tables.quarantine.size,
  };
}

function policyView(agent: Agent): StatusRecord['policy'] {
  const { resolved } = agent.model;
  const entries = agent.repository.list();
  const { audit, enforcement } = agent.config;
  return {
    revision: resolved.revision,
    mode: enforcement,
    audit,
    ingress: enforcementWords(resolved.ingress, audit),
    egress: enforcementWords(resolved.egress, audit),
    policies: entries.length,
    selecting: entries.filter(({ selecting }) => selecting).length,
    invalid: entries.filter(({ state }) => state === 'invalid' || state === 'last-good').length,
    shadowed: entries.filter(({ state }) => state === 'shadowed').length,
    heldBack: entries.reduce((sum, { heldBack }) => sum + heldBack, 0),
  };
}

/** As `cilium-dbg endpoint list` says it (policy specification 11.14). */
export function enforcementWords(policy: DirectionPolicy, audit: boolean): string {
  return `${policy.enforcing ? 'Enabled' : 'Disabled'}${audit ? ' (Audit)' : ''}`;
}

export function datapathView(agent: Agent): StatusRecord['datapath'] {
  const { status, name } = agent.datapath;
  return {
    name,
    applied: status.applied,
    ...(status.appliedAt !== undefined && { appliedAt: status.appliedAt }),
    lagMs: Math.round(agent.reconciler.lagMs),
    entries: status.entries,
    ...(status.error !== undefined && { error: status.error }),
    healed: status.healed,
    denied: status.denied,
    flows: { seen: agent.flows.seen, lost: { ...agent.flows.lost } },
    drops: dropCounts(status.verdicts ?? []),
  };
}

/** Two kinds may share a reason. */
function dropCounts(verdicts: readonly VerdictCount[]): DropCountRecord[] {
  const found = new Map<string, DropCountRecord>();
  for (const { kind, direction, packets, bytes } of verdicts) {
    const { verdict, reason } = VERDICT_KINDS[kind];
    if (verdict !== 'DROPPED') continue;
    const key = `${reason.number} ${direction}`;
    const before = found.get(key) ?? { packets: 0, bytes: 0 };
    found.set(key, {
      reason: reason.number,
      text: reason.text,
      direction,
      packets: before.packets + packets,
      bytes: before.bytes + bytes,
    });
  }
  return [...found.values()];
}

function routingView(agent: Agent): StatusRecord['routing'] {
  const { overlay } = agent.datapath.status;
  const mode = agent.config.routing;
  if (overlay?.device === undefined)
    return { mode, routes: 0, ...(overlay?.error !== undefined && { error: overlay.error }) };
  return {
    mode,
    device: overlay.device,
    ...(overlay.mtu !== undefined && { mtu: overlay.mtu }),
    routes: overlay.routes.hosts + overlay.routes.prefixes,
    ...(overlay.error !== undefined && { error: overlay.error }),
  };
}

const PROTOCOL_NAMES: Readonly<Record<number, string>> = { 6: 'tcp', 17: 'udp', 132: 'sctp' };

/** What passes whatever the policy says: narrow, and shown (design, section 4). */
function allowancesView(agent: Agent): AllowanceRecord[] {
  const { border, overlay } = agent.desired;
  const ports = (list: readonly TransportPort[]): string =>
    list.map(({ protocol, port }) => `${PROTOCOL_NAMES[protocol] ?? protocol}/${port}`).join(', ');
  const found: AllowanceRecord[] = [
    {
      direction: 'both',
      what: 'loopback, and devices inside the machine',
      why: 'traffic inside the machine is not judged',
    },
    {
      direction: 'both',
      what: 'neighbour discovery (icmpv6 130-136, 143), DHCP, fragmentation needed',
      why: 'the network does not work without them',
    },
    {
      direction: 'both',
      what: 'replies and related errors of allowed connections',
      why: 'policy judges who opens a connection',
    },
  ];
  if (border.failsafe.ingress.length > 0)
    found.push({ direction: 'ingress', what: ports(border.failsafe.ingress), why: 'failsafe.ingress' });
  if (border.failsafe.egress.length > 0)
    found.push({ direction: 'egress', what: ports(border.failsafe.egress), why: 'failsafe.egress' });
  if (border.stores.length > 0) {
    const stores = border.stores.map(
      ({ address, port }) => `${address.family === 6 ? `[${formatAddress(address)}]` : formatAddress(address)}:${port}`,
    );
    found.push({
      direction: 'egress',
      what: `tcp to ${stores.join(', ')}`,
      why: 'stores that the agent is connected to',
    });
  }
  if (overlay !== undefined) {
    found.push({
      direction: 'both',
      what: `udp/${border.tunnelPort} from and to ${border.nodes.length} nodes`,
      why: 'outer packets of the overlay; what is inside is judged',
    });
  }
  return found;
}
