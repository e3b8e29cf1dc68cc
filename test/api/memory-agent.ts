import type {
  AgentApi,
  ClusterRecord,
  DrainRecord,
  EndpointRecord,
  IdentityRecord,
  IpcacheRecord,
  PolicyRecord,
  StatusRecord,
  StoreRecord,
} from '../../src/api/types.ts';
import { MeshError } from '../../src/core/errors.ts';
import { parseAddress } from '../../src/core/ip.ts';

/** A moment in the lives of the records below. */
export const NOW = Date.now();

export const store = (over: Partial<StoreRecord> = {}): StoreRecord => ({
  state: 'connected',
  since: NOW - 3_600_000,
  endpoints: ['https://hub.example.com:2379'],
  endpoint: 'https://hub.example.com:2379',
  clusterId: 'c6ba18866da7dfd8',
  hasQuorum: true,
  lastHeartbeat: NOW - 12_000,
  reconnections: 0,
  failures: 0,
  leases: 1,
  summary:
    'etcd: 1/1 connected, leases=1, lock leases=0, has-quorum=true: endpoint status checks are disabled, ID: c6ba18866da7dfd8',
  ...over,
});

export const cluster = (name: string, over: Partial<ClusterRecord> = {}): ClusterRecord => ({
  name,
  id: 2,
  kind: 'remote',
  ready: true,
  connected: true,
  config: { required: true, retrieved: true, clusterId: 2, kvstoremesh: false, syncCanaries: true },
  synced: { nodes: true, endpoints: true, identities: true, services: true },
  numNodes: 3,
  numEndpoints: 25,
  numIdentities: 12,
  numServices: 4,
  numQuarantined: 0,
  store: store(),
  freshAt: NOW,
  ...over,
});

export const status = (over: Partial<StatusRecord> = {}): StatusRecord => ({
  apiVersion: 'mesh-agent/v1',
  kind: 'Status',
  state: 'ok',
  agent: { version: '1.2.3', commit: '0123456789ab', pid: 4711, startedAt: NOW - 7_200_000 },
  machine: {
    name: 'my-vm',
    cluster: { name: 'cluster-a', id: 1 },
    identity: 59102,
    labels: ['k8s:app=legacy-app', 'k8s:env=production', 'k8s:io.cilium.k8s.policy.cluster=cluster-a'],
    ipv4: '192.168.1.100',
    ranges: ['10.192.1.0/24'],
  },
  registration: {
    state: 'registered',
    since: NOW - 7_000_000,
    key: 'cilium/state/noderegister/v1/my-vm',
    registrations: 1,
  },
  kvstore: store(),
  clusters: [cluster('cluster-a', { kind: 'joined', id: 1 }), cluster('cluster-b')],
  counts: { nodes: 6, endpoints: 50, identities: 24, services: 8, globalServices: 5, ipcache: 61, quarantined: 0 },
  policy: {
    revision: 7,
    mode: 'default',
    audit: false,
    ingress: 'Enabled',
    egress: 'Disabled',
    policies: 3,
    selecting: 2,
    invalid: 0,
    shadowed: 0,
    heldBack: 0,
  },
  datapath: {
    name: 'nftables',
    applied: true,
    appliedAt: NOW - 90_000,
    lagMs: 0,
    entries: { addresses: 60, prefixes: 4, policyRows: 5, classes: 3 },
    healed: 0,
    denied: { ingress: { packets: 12, bytes: 720 }, egress: { packets: 0, bytes: 0 } },
    drops: [{ reason: 133, text: 'Policy denied', direction: 'ingress', packets: 12, bytes: 720 }],
  },
  routing: { mode: 'tunnel', device: 'mesh_vxlan', mtu: 1450, routes: 6 },
  devices: [
    {
      name: 'eth0',
      index: 2,
      role: 'external',
      kind: 'ether',
      up: true,
      mtu: 1500,
      addresses: ['192.168.1.100/24'],
      reason: 'it has the default route',
    },
  ],
  allowances: [{ direction: 'ingress', what: 'tcp/22', why: 'failsafe' }],
  quarantine: [],
  health: [],
  ...over,
});

const local: EndpointRecord = {
  local: true,
  id: 1,
  name: 'my-vm',
  cluster: 'cluster-a',
  identity: 59102,
  labels: ['k8s:app=legacy-app', 'k8s:io.cilium.k8s.policy.cluster=cluster-a'],
  ipv4: '192.168.1.100',
  policyIngress: 'Enabled',
  policyEgress: 'Disabled',
  status: 'ready',
};

const remoteNode: EndpointRecord = {
  local: false,
  id: 2,
  name: 'node-1',
  cluster: 'cluster-b',
  identity: 6,
  labels: ['reserved:remote-node'],
  ipv4: '10.0.0.21',
  policyIngress: 'Disabled',
  policyEgress: 'Disabled',
  status: 'ready',
};

export const identities: IdentityRecord[] = [
  { id: 1, cluster: '', labels: ['reserved:host'], addresses: 1 },
  {
    id: 59102,
    cluster: 'cluster-a',
    labels: ['k8s:app=legacy-app', 'k8s:io.cilium.k8s.policy.cluster=cluster-a'],
    addresses: 1,
  },
  {
    id: 131_500,
    cluster: 'cluster-b',
    labels: [
      'k8s:app=frontend',
      'k8s:io.cilium.k8s.policy.cluster=cluster-b',
      'k8s:io.kubernetes.pod.namespace=production',
    ],
    addresses: 2,
  },
];

export const ipcache: IpcacheRecord[] = [
  {
    prefix: '192.168.1.100/32',
    identity: 59102,
    labels: identities[1]?.labels ?? [],
    tunnelEndpoint: '0.0.0.0',
    source: 'local',
    cluster: 'cluster-a',
  },
  {
    prefix: '10.245.1.5/32',
    identity: 131_500,
    labels: identities[2]?.labels ?? [],
    tunnelEndpoint: '10.0.0.21',
    source: 'clustermesh',
    cluster: 'cluster-b',
    others: [{ cluster: 'cluster-a', source: 'kvstore', identity: 59102 }],
  },
];

const policies: PolicyRecord[] = [
  {
    name: 'CiliumNetworkPolicy/production/web',
    kind: 'CiliumNetworkPolicy',
    source: 'directory:web.yaml',
    state: 'in-force',
    rules: 2,
    selecting: true,
    directions: ['ingress'],
    audit: false,
    heldBack: 0,
    messages: [],
    since: NOW - 60_000,
  },
  {
    name: 'CiliumNetworkPolicy/production/broken',
    kind: 'CiliumNetworkPolicy',
    source: 'directory:broken.yaml',
    state: 'invalid',
    rules: 0,
    selecting: false,
    directions: [],
    audit: false,
    heldBack: 0,
    messages: ['broken.yaml:7: spec.ingress[0].toPorts[0]: port 99999 is not a port'],
    since: NOW - 60_000,
  },
];

const drained = (draining: boolean): DrainRecord => ({
  apiVersion: 'mesh-agent/v1',
  kind: 'Drain',
  draining,
  ...(draining && { since: NOW }),
  services: ['production/api-service'],
  published: [],
  connections: [],
});

/** An agent whose facts are all in memory. */
export function memoryAgent(over: Partial<AgentApi> = {}): AgentApi {
  return {
    status: () => status(),
    drain: async () => drained(false),
    setDrain: async (draining) => drained(draining),
    endpoints: ({ all, selector, cluster: wanted }) =>
      [local, ...(all || selector !== undefined ? [remoteNode] : [])].filter(
        (each) =>
          (selector === undefined || each.labels.includes(selector)) &&
          (wanted === undefined || each.cluster === wanted),
      ),
    identities: () => identities,
    identity: (id) => identities.find((each) => each.id === id),
    nodes: () => [
      { name: 'my-vm', cluster: 'cluster-a', ipv4: '192.168.1.100', ipv4Range: '10.192.1.0/24', source: 'local' },
      { name: 'node-1', cluster: 'cluster-b', ipv4: '10.0.0.21', ipv4Range: '10.245.1.0/24', source: 'clustermesh' },
    ],
    nodeHealth: () => [],
    probeNodes: () => ({ apiVersion: 'mesh-agent/v1', kind: 'ProbeAnswer', askedAt: NOW }),
    services: () => [
      {
        cluster: 'cluster-b',
        namespace: 'production',
        name: 'api-service',
        shared: true,
        global: true,
        frontends: ['10.96.3.7:80/TCP'],
        backends: ['10.245.1.5:8080/TCP', '10.245.1.6:8080/TCP'],
      },
    ],
    ipcache: () => ipcache,
    ipcacheGet: (address) =>
      parseAddress(address) === undefined ? undefined : ipcache.find((each) => each.prefix === `${address}/32`),
    policies: () => policies,
    policy: (name) => {
      const found = policies.find((each) => each.name === name);
      return found === undefined
        ? undefined
        : { ...found, rulesJson: [{ endpointSelector: { matchLabels: { 'any:app': 'web' } } }] };
    },
    kernelServices: async () => [
      {
        frontend: '10.96.3.7:80/TCP',
        service: 'production/api-service',
        scope: 'global',
        sticky: false,
        connections: 12,
        at: 'packet' as const,
        backends: [
          { address: '10.245.1.5:8080/TCP', slots: 1 },
          { address: '10.245.1.6:8080/TCP', slots: 1 },
        ],
      },
      { frontend: '10.96.3.8:53/UDP', sticky: false, connections: 0, at: 'packet' as const, backends: [] },
    ],
    kernelIpcache: () =>
      Promise.resolve(
        ipcache.map(({ prefix, identity, labels, tunnelEndpoint }) => ({ prefix, identity, labels, tunnelEndpoint })),
      ),
    kernelConnections: async () => [],
    kernelPolicy: () =>
      Promise.resolve([
        {
          direction: 'ingress',
          verdict: 'allow',
          identities: [131_500],
          classNumber: 1,
          protocol: 'TCP',
          ports: '8080',
          packets: 10,
          bytes: 600,
        },
        {
          direction: 'ingress',
          verdict: 'deny',
          classNumber: 0,
          protocol: 'ANY',
          ports: 'ANY',
          packets: 3,
          bytes: 180,
        },
      ]),
    names: () => [],
    flows: async function* () {},
    doctor: () => Promise.resolve({ apiVersion: 'mesh-agent/v1', kind: 'AgentChecks', version: '0.1.0', checks: [] }),
    explain: () => Promise.reject(new MeshError('API-QUESTION', 'nothing is known here')),
    applyPolicies: () => Promise.reject(new MeshError('AGT-STATE', 'nothing is kept here')),
    deletePolicy: () => Promise.resolve(undefined),
    ...over,
  };
}

/** A list of any length, made while it is read. */
export function* manyAddresses(count: number): Generator<IpcacheRecord> {
  for (let i = 0; i < count; i++) {
    yield {
      prefix: `10.${(i >>> 16) & 255}.${(i >>> 8) & 255}.${i & 255}/32`,
      identity: 131_072 + (i % 1000),
      labels: ['k8s:app=web', `k8s:number=${i % 1000}`],
      tunnelEndpoint: '192.168.56.11',
      source: 'clustermesh',
      cluster: 'cluster-b',
    };
  }
}
