import { join } from 'node:path';
import type { KeyName, ValueOf } from './keys.ts';

const STATE_DIR = '/var/lib/mesh-agent';

/** Fixed names of the design. What is undefined is not set, or found out on the machine. */
const DEFAULTS: { readonly [K in KeyName]: ValueOf<K> | undefined } = {
  name: undefined,
  'cluster.name': undefined,
  'cluster.id': undefined,
  maxConnectedClusters: 255,
  'kvstore.endpoints': [],
  'kvstore.ca': undefined,
  'kvstore.cert': undefined,
  'kvstore.key': undefined,
  'kvstore.username': undefined,
  'kvstore.password': undefined,
  'kvstore.config': undefined,
  'address.ipv4': undefined,
  'address.ipv6': undefined,
  datapath: 'auto',
  devices: 'auto',
  routing: 'tunnel',
  'tunnel.protocol': 'vxlan',
  'tunnel.port': 8472,
  enforcement: 'default',
  audit: false,
  'failsafe.ingress': [{ protocol: 6, port: 22 }],
  'failsafe.egress': [],
  'lastGood.fallback': 'nothing',
  'fqdn.minTtl': 0,
  'fqdn.grace': 30,
  'services.enabled': true,
  'services.affinity': {},
  'services.local': undefined,
  'services.onClusterLoss': 'keep',
  'services.lossGrace': 30,
  'services.sticky': [],
  'services.weights': {},
  'services.frontends': [],
  'services.checks': {},
  'health.enabled': true,
  'health.port': 4240,
  'health.interval': 60,
  'health.timeout': 10,
  'dns.enabled': false,
  'dns.listen': '127.0.0.153:53',
  'dns.domain': 'cluster.local',
  'dns.clusterset': 'clusterset.local',
  'dns.ttl': 5,
  'dns.resolved': 'auto',
  'dns.maxQueries': 1000,
  'monitor.buffer': 4095,
  'monitor.rate': 500,
  policies: '/etc/mesh-agent/policies.d',
  clustermesh: undefined,
  'metrics.listen': '127.0.0.1:9964',
  'log.level': 'info',
  'log.format': 'auto',
  'log.file': undefined,
  stateDir: STATE_DIR,
  socket: '/run/mesh-agent/agent.sock',
  socketGroup: undefined,
  policyDefaultLocalCluster: false,
  allowLocalhost: 'auto',
  namedPorts: [],
};

export function defaultValue(name: KeyName, facts: { hostname?: string; stateDir?: string }): unknown {
  if (name === 'name') return facts.hostname?.toLowerCase();
  if (name === 'clustermesh') return join(facts.stateDir ?? STATE_DIR, 'clustermesh');
  return DEFAULTS[name];
}
