import { Counter, Gauge, type Registry } from 'prom-client';
import type { Metrics } from '../observe/metrics.ts';
import { BACKEND_STATES } from '../service/result.ts';
import type { ClusterRecord, StatusRecord } from './types.ts';

/**
 * Renders the status record as metrics at each scrape, under Cilium's names where they fit (its dashboards work), under
 * ours else. Nothing is shown while there is no record yet.
 */
export function exportStatus(metrics: Metrics, status: () => StatusRecord | undefined): void {
  const families = [counts, joining, clusters, services, dns, policy, datapath, health].map((open) =>
    open(metrics.registry),
  );
  metrics.onScrape(() => {
    const record = status();
    if (record === undefined) return;
    for (const render of families) render(record);
  });
}

type Render = (record: StatusRecord) => void;

function gauges<L extends string>(registry: Registry, labelNames: readonly L[]) {
  return (name: string, help: string): Gauge<L> =>
    new Gauge<L>({ name, help, labelNames: [...labelNames], registers: [registry] });
}

function counts(registry: Registry): Render {
  const plain = gauges(registry, []);
  const identity = gauges(registry, ['type'])('cilium_identity', 'identities by type');
  const addresses = gauges(registry, ['family'])('cilium_ip_addresses', 'addresses of this machine in the mesh');
  const endpoint = plain('cilium_endpoint', 'endpoints on this machine');
  const endpointState = gauges(registry, ['state'])('cilium_endpoint_state', 'endpoints on this machine by state');
  const global = plain('cilium_clustermesh_global_services', 'global services');
  const mine = gauges(registry, ['kind'])('mesh_agent_facts', 'facts in force, from all clusters');
  const quarantined = plain('mesh_agent_quarantined_values', 'values of stores that were refused');
  return ({ counts, machine, registration }) => {
    identity.set({ type: 'cluster_local' }, counts.identities);
    addresses.set({ family: 'ipv4' }, machine.ipv4 === undefined ? 0 : 1);
    addresses.set({ family: 'ipv6' }, machine.ipv6 === undefined ? 0 : 1);
    const ready = machine.identity !== undefined;
    endpoint.set(1);
    endpointState.reset();
    endpointState.set({ state: ready || registration.state === 'off' ? 'ready' : 'waiting-for-identity' }, 1);
    global.set(counts.globalServices);
    for (const kind of ['nodes', 'endpoints', 'identities', 'services', 'ipcache'] as const) {
      mine.set({ kind }, counts[kind]);
    }
    quarantined.set(counts.quarantined);
  };
}

function joining(registry: Registry): Render {
  const plain = gauges(registry, []);
  const registered = plain('mesh_agent_registered', 'whether the joined cluster has registered this machine');
  const certificate = plain(
    'mesh_agent_certificate_expiry_seconds',
    'when the certificate of a hub ends; 0 without one',
  );
  const failing = plain('mesh_agent_certificate_renewal_failing', 'whether the last renewal of the certificate failed');
  const confirmed = plain(
    'mesh_agent_last_good_confirmed_seconds',
    'when the last-good snapshot was last known to be right',
  );
  const rising = risingCounters(registry);
  const registrations = rising('mesh_agent_registrations_total', 'registrations that were answered', []);
  const renewals = rising('mesh_agent_certificate_renewals_total', 'renewals of the certificate', []);
  return ({ registration, certificate: given, lastGood }) => {
    registered.set(Number(registration.state === 'registered'));
    registrations({}, registration.registrations);
    certificate.set((given?.notAfter ?? 0) / 1000);
    failing.set(Number(given?.lastError !== undefined));
    renewals({}, given?.renewals ?? 0);
    confirmed.set((lastGood?.confirmedAt ?? 0) / 1000);
  };
}

function services(registry: Registry): Render {
  const plain = gauges(registry, []);
  const frontends = plain('mesh_agent_service_frontends', 'addresses and ports of services that lead somewhere');
  const without = plain('mesh_agent_services_without_backend', 'services whose connections are refused');
  const lost = plain('mesh_agent_services_lost_clusters', 'clusters whose backends are out of rotation');
  const problems = plain(
    'mesh_agent_services_problems',
    'services that clusters announce in a way that is not all in force',
  );
  const backends = gauges(registry, ['state'])('mesh_agent_service_backends', 'backends of services by state');
  return (record) => {
    const shown = record.services;
    frontends.set(shown?.frontends ?? 0);
    without.set(shown?.withoutBackend ?? 0);
    lost.set(shown?.lostClusters.length ?? 0);
    problems.set(shown?.problems ?? 0);
    for (const state of BACKEND_STATES) backends.set({ state }, shown?.backends[state] ?? 0);
  };
}

function dns(registry: Registry): Render {
  const serving = gauges(registry, [])('mesh_agent_dns_serving', 'whether names of services are answered');
  const messages = risingCounters(registry)('mesh_agent_dns_messages_total', 'DNS messages by what became of them', [
    'outcome',
  ]);
  return ({ dns }) => {
    serving.set(Number(dns?.serving === true));
    for (const [outcome, count] of Object.entries(dns?.messages ?? {})) messages({ outcome }, count);
  };
}

/** Prefixes of the store as Cilium's metrics name them. */
const SCOPES = [
  ['nodes', 'nodes/v1'],
  ['endpoints', 'ip/v1'],
  ['identities', 'identities/v1'],
  ['services', 'services/v1'],
] as const;

const CLUSTER_LABELS = ['source_cluster', 'source_node_name', 'target_cluster'] as const;

function clusters(registry: Registry): Render {
  const remotes = gauges(registry, ['source_cluster', 'source_node_name'] as const)(
    'cilium_clustermesh_remote_clusters',
    'remote clusters',
  );
  const gauge = gauges(registry, CLUSTER_LABELS);
  const prefix = 'cilium_clustermesh_remote_cluster';
  const families: readonly (readonly [Gauge<(typeof CLUSTER_LABELS)[number]>, (cluster: ClusterRecord) => number])[] = [
    [gauge(`${prefix}_readiness_status`, 'whether all its facts are present'), (each) => Number(each.ready)],
    [gauge(`${prefix}_failures`, 'failures of the connection'), (each) => each.store.failures],
    [
      gauge(`${prefix}_last_failure_ts`, 'time of the last failure'),
      (each) => (each.store.lastFailure?.at ?? 0) / 1000,
    ],
    [gauge(`${prefix}_nodes`, 'nodes'), (each) => each.numNodes],
    [gauge(`${prefix}_endpoints`, 'endpoints'), (each) => each.numEndpoints],
    [gauge(`${prefix}_services`, 'services'), (each) => each.numServices],
    [gauge('mesh_agent_cluster_identities', 'identities'), (each) => each.numIdentities],
    [
      gauge('mesh_agent_cluster_reconnections', 'connections to the store that were made anew'),
      (each) => each.store.reconnections,
    ],
    [
      gauge('mesh_agent_cluster_heartbeat_seconds', 'when the store had its last heartbeat; 0 for none'),
      (each) => (each.store.lastHeartbeat ?? 0) / 1000,
    ],
    [gauge('mesh_agent_cluster_connected', 'whether the store answers'), (each) => Number(each.connected)],
    [
      gauge('mesh_agent_cluster_fresh_seconds', 'when its facts were last known to be present'),
      (each) => (each.freshAt ?? 0) / 1000,
    ],
    [gauge('mesh_agent_cluster_quarantined_values', 'its values that were refused'), (each) => each.numQuarantined],
  ];
  const synced = gauges(registry, ['scope', 'source_cluster', 'action'] as const)(
    'cilium_kvstore_initial_sync_completed',
    'whether the first list of a prefix is complete',
  );
  return ({ clusters, machine }) => {
    synced.reset();
    for (const { name, synced: done } of clusters) {
      for (const [kind, scope] of SCOPES)
        synced.set({ scope, source_cluster: name, action: 'read' }, Number(done[kind]));
    }
    const source = { source_cluster: machine.cluster?.name ?? '', source_node_name: machine.name };
    remotes.reset();
    remotes.set(source, clusters.filter((each) => each.kind !== 'joined').length);
    for (const [family, value] of families) {
      // A cluster that is gone must not stay in the list.
      family.reset();
      for (const each of clusters) family.set({ ...source, target_cluster: each.name }, value(each));
    }
  };
}

function policy(registry: Registry): Render {
  const plain = gauges(registry, []);
  const number = plain('cilium_policy', 'policies that select this machine');
  const revision = plain('cilium_policy_max_revision', 'revision of the policies');
  const invalid = plain('mesh_agent_policies_invalid', 'policies that are not understood and not in force');
  const heldBack = plain('mesh_agent_policy_entries_held_back', 'policy entries that this machine cannot enforce');
  const enforcement = gauges(registry, ['enforcement'])(
    'cilium_policy_endpoint_enforcement_status',
    'endpoints by enforcement',
  );
  return ({ policy }) => {
    number.set(policy.selecting);
    revision.set(policy.revision);
    invalid.set(policy.invalid);
    heldBack.set(policy.heldBack);
    const [ingress, egress] = [policy.ingress.startsWith('Enabled'), policy.egress.startsWith('Enabled')];
    const direction = ingress && egress ? 'both' : ingress ? 'ingress' : egress ? 'egress' : 'none';
    enforcement.reset();
    enforcement.set({ enforcement: policy.audit && direction !== 'none' ? `audit-${direction}` : direction }, 1);
  };
}

function datapath(registry: Registry): Render {
  const entries = gauges(registry, ['kind'])('mesh_agent_kernel_entries', 'entries in the kernel');
  const plain = gauges(registry, []);
  const applied = plain('mesh_agent_datapath_applied', 'whether the kernel has what is desired');
  const lag = plain('mesh_agent_datapath_lag_seconds', 'age of the oldest change that is not in the kernel');
  const routes = plain('mesh_agent_routes', 'routes of ours');
  const rising = risingCounters(registry);
  const drops = rising('cilium_drop_count_total', 'packets that were dropped', ['reason', 'direction']);
  const bytes = rising('cilium_drop_bytes_total', 'bytes that were dropped', ['reason', 'direction']);
  const healed = rising('mesh_agent_datapath_healed_total', 'foreign changes that were undone', []);
  const seen = rising('mesh_agent_flows_seen_total', 'verdicts that the monitor saw', []);
  const lost = rising('mesh_agent_flows_lost_total', 'verdicts that it did not see, by where they were lost', [
    'source',
  ]);
  return ({ datapath, routing }) => {
    seen({}, datapath.flows?.seen ?? 0);
    for (const [source, packets] of Object.entries(datapath.flows?.lost ?? {})) lost({ source }, packets);
    for (const [kind, value] of Object.entries(datapath.entries)) entries.set({ kind }, value);
    applied.set(Number(datapath.applied));
    lag.set(datapath.lagMs / 1000);
    routes.set(routing.routes);
    healed({}, datapath.healed);
    for (const each of datapath.drops) {
      const labels = { reason: each.text, direction: each.direction.toUpperCase() };
      drops(labels, each.packets);
      bytes(labels, each.bytes);
    }
  };
}

/**
 * Counters that follow a number which is kept elsewhere. The kernel's start again at 0 when the table is made anew; what
 * they had reached until then stays counted.
 */
function risingCounters(registry: Registry) {
  return (name: string, help: string, labelNames: string[]) => {
    const counter = new Counter({ name, help, labelNames, registers: [registry] });
    const last = new Map<string, number>();
    return (labels: Record<string, string>, value: number): void => {
      const key = Object.values(labels).join();
      const before = last.get(key) ?? 0;
      counter.inc(labels, value >= before ? value - before : value);
      last.set(key, value);
    };
  };
}

function health(registry: Registry): Render {
  const problems = gauges(registry, ['code', 'severity'])('mesh_agent_health_problems', 'what is wrong, by code');
  const state = gauges(registry, ['state'])('mesh_agent_state', 'ok, degraded or not-joined');
  const started = gauges(registry, [])('mesh_agent_start_time_seconds', 'when the agent started');
  return (record) => {
    problems.reset();
    for (const each of record.health) problems.inc({ code: each.code, severity: each.severity });
    for (const each of ['ok', 'degraded', 'not-joined']) state.set({ state: each }, Number(record.state === each));
    started.set(record.agent.startedAt / 1000);
  };
}
