import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { type Break, breakTests, type DoctorLab, startDoctorLab } from '../lab/doctor-lab.ts';
import { host } from '../lab/namespace.ts';
import { announceNode } from '../lab/overlay-router.ts';
import { policyFor } from '../lab/story.ts';
import { nodeValue } from '../lab/values.ts';

/** The machine, the network, services and policies are broken; the doctor names the cause. */
let started: DoctorLab;
const lab = () => started.lab;
const b = () => lab().cluster('cluster-b');
const machine = () => lab().machine.namespace;
const nodeB = () => b().node.place.namespace;
const under = () => lab().topology.underlay.namespace;
const state = (...names: string[]): string => join(lab().agent.stateDir, ...names);
const routerOf = (name: string): string => started.routers.get(name)?.ipv4 ?? '';

before(async () => {
  started = await startDoctorLab();
});
after(() => started?.close());

const nft =
  (where: typeof machine, ...rules: string[]) =>
  (): void => {
    where().feed(`table inet other {\nchain c {\n${rules.join('\n')}\n}\n}\n`, 'nft', '-f', '-');
  };
const noTable = (where: typeof machine) => (): void => {
  where().run('nft', 'delete', 'table', 'inet', 'other');
};
const sysctl = (setting: string) => (): void => {
  machine().run('sysctl', '-q', '-w', setting);
};
const port = (number: number) => ({ http: { Protocol: 'TCP', Port: number } });

function service(cluster: string, over: { name?: string; namespace?: string; backends?: string[]; shared?: boolean }) {
  const { name = 'api', namespace = 'production', backends = ['10.245.1.5'], shared = true } = over;
  const ends = Object.fromEntries(backends.map((address) => [address, port(8080)]));
  const frontends = { '10.96.0.10': port(80) };
  return lab().cluster(cluster).facts.service({ namespace, name, frontends, backends: ends, shared });
}

const remove = async (...keys: (readonly [cluster: string, key: string])[]): Promise<void> => {
  for (const [cluster, key] of keys) await lab().cluster(cluster).facts.unset('services', key);
};

const filling = (): string => state('filling');

const MACHINE: readonly Break[] = [
  {
    name: 'the disk of the state is full',
    first: 'HST-SPACE',
    break: () => {
      // Until nothing more fits.
      machine().try('dd', 'if=/dev/zero', `of=${filling()}`, 'bs=64K');
    },
    mend: () => rmSync(filling()),
  },
  {
    name: 'the disk of the state is nearly full',
    first: 'HST-SPACE',
    exit: 0,
    break: () => {
      machine().run('dd', 'if=/dev/zero', `of=${filling()}`, 'bs=1M', 'count=50');
    },
    mend: () => rmSync(filling()),
  },
  {
    name: 'the file system of the state is read-only',
    first: 'HST-READ-ONLY',
    break: () => {
      host('mount', '-o', 'remount,ro', lab().agent.stateDir);
    },
    mend: () => {
      host('mount', '-o', 'remount,rw', lab().agent.stateDir);
    },
  },
  {
    name: 'everybody may look into the state',
    first: 'CFG-EXPOSED',
    exit: 0,
    break: () => chmodSync(lab().agent.stateDir, 0o755),
    mend: () => chmodSync(lab().agent.stateDir, 0o700),
  },
  {
    name: 'everybody may read our private key',
    first: 'CFG-EXPOSED',
    exit: 0,
    break: () => chmodSync(lab().credentials.key, 0o644),
    mend: () => chmodSync(lab().credentials.key, 0o600),
  },
  {
    name: 'the table of connections is nearly full',
    first: 'HST-CONNTRACK',
    exit: 0,
    break: () => {
      const max = Number(machine().run('sysctl', '-n', 'net.netfilter.nf_conntrack_max'));
      const lines = Array.from({ length: Math.ceil(max * 0.85) }, (_, index) => {
        const address = `172.20.${(index >> 14) & 255}.${(index >> 6) & 255}`;
        return `-I -s ${address} -d 192.0.2.1 -p udp --sport ${1000 + (index & 63)} --dport 9 -t 600`;
      });
      const file = join(lab().folder, 'connections');
      writeFileSync(file, `${lines.join('\n')}\n`);
      machine().run('conntrack', '--load-file', file);
    },
    mend: () => {
      machine().run('conntrack', '-F');
    },
  },
  {
    name: 'the reverse-path filter of the overlay is strict',
    first: 'HST-RP-FILTER',
    subject: 'mesh_vxlan',
    break: sysctl('net.ipv4.conf.mesh_vxlan.rp_filter=1'),
    mend: sysctl('net.ipv4.conf.mesh_vxlan.rp_filter=2'),
  },
  {
    name: 'packets for containers are not forwarded',
    first: 'HST-SYSCTL',
    exit: 0,
    break: () => {
      sysctl('net.ipv4.ip_forward=0')();
      machine().run('ip', 'link', 'add', 'docker0', 'up', 'type', 'bridge');
      machine().run('ip', 'address', 'add', '172.17.0.1/16', 'dev', 'docker0');
    },
    mend: () => {
      machine().run('ip', 'link', 'delete', 'docker0');
    },
  },
  {
    name: 'a Docker bridge has the range of a cluster',
    first: 'HST-RANGE',
    subject: 'docker0',
    break: () => {
      sysctl('net.ipv4.ip_forward=1')();
      machine().run('ip', 'link', 'add', 'docker0', 'up', 'type', 'bridge');
      machine().run('ip', 'address', 'add', '10.245.1.1/24', 'dev', 'docker0');
    },
    mend: () => {
      machine().run('ip', 'link', 'delete', 'docker0');
    },
  },
  {
    name: 'a firewall script drops the overlay',
    first: 'HST-FIREWALL',
    follows: ['OVL-UNREACHABLE'],
    break: nft(machine, 'type filter hook input priority 0', 'udp dport 8472 counter drop'),
    mend: noTable(machine),
  },
  {
    name: 'packets bypass connection tracking',
    first: 'HST-BYPASS',
    exit: 0,
    break: nft(machine, 'type filter hook prerouting priority raw', 'tcp dport 8080 notrack'),
    mend: noTable(machine),
  },
  {
    name: 'a firewall script flushes our rules again and again',
    first: 'DPN-DRIFT',
    exit: 0,
    break: () => {
      machine().run('nft', 'delete', 'table', 'inet', 'mesh_agent');
    },
    mend: async () => {
      // What was undone stays told for a while: another agent does not know of it.
      await lab().agent.stop();
      lab().agent.start();
      await lab().agent.untilReady();
    },
  },
];

const NETWORK: readonly Break[] = [
  {
    name: 'the network of a node drops the overlay',
    first: 'OVL-UNREACHABLE',
    subject: 'cluster-b',
    break: nft(nodeB, 'type filter hook prerouting priority -350', 'udp dport 8472 drop'),
    mend: noTable(nodeB),
  },
  {
    name: 'the network below carries smaller packets than the overlay thinks',
    first: 'OVL-MTU',
    subject: 'cluster-b',
    break: () => {
      under().run('ip', 'link', 'set', 'port31', 'mtu', '1400');
    },
    mend: () => {
      under().run('ip', 'link', 'set', 'port31', 'mtu', '1500');
    },
  },
  {
    name: 'a node is gone',
    first: 'OVL-NODE',
    subject: 'cluster-b',
    exit: 0,
    break: () => {
      const addresses = [
        { Type: 'InternalIP', IP: '192.168.100.99' },
        { Type: 'CiliumInternalIP', IP: '10.245.9.1' },
      ];
      const node = { name: 'node-9', cluster: 'cluster-b', clusterId: 2, addresses, range4: '10.245.9.0/24' };
      return b().facts.set('nodes', 'node-9', nodeValue(node));
    },
    mend: () => b().facts.unset('nodes', 'node-9'),
  },
  {
    name: 'pod ranges of two clusters overlap',
    first: 'MSH-RANGES',
    break: () => announceNode(b(), routerOf('cluster-b'), '10.244.0.0/16'),
    mend: () => announceNode(b(), routerOf('cluster-b')),
  },
  {
    name: 'two clusters announce one address',
    first: 'MSH-CONTESTED',
    exit: 0,
    // The identity that its own pods have.
    break: () => b().facts.address({ ip: '10.244.1.5', identity: b().facts.firstIdentity + 1000 }),
    mend: () => b().facts.unset('endpoints', '10.244.1.5'),
  },
  {
    name: 'a cluster announces nonsense',
    first: 'MSH-QUARANTINE',
    exit: 0,
    break: () => b().facts.set('endpoints', 'not-an-address', '{'),
    mend: () => b().facts.unset('endpoints', 'not-an-address'),
  },
  {
    name: 'no cluster has a backend for a global service',
    first: 'MSH-NO-BACKENDS',
    subject: 'cluster-',
    break: async () => {
      await service('cluster-a', { backends: [] });
      await service('cluster-b', { backends: [] });
    },
    mend: () => remove(['cluster-a', 'production/api'], ['cluster-b', 'production/api']),
  },
  {
    name: 'the other cluster does not share the service',
    first: 'MSH-NOT-SHARED',
    subject: 'cluster-b: production/api',
    exit: 0,
    break: async () => {
      await service('cluster-a', { backends: ['10.244.1.5'] });
      await service('cluster-b', { shared: false });
    },
    mend: () => remove(['cluster-a', 'production/api'], ['cluster-b', 'production/api']),
  },
  {
    name: 'the service is in another namespace of the other cluster',
    first: 'MSH-SERVICE-NAME',
    exit: 0,
    break: async () => {
      await service('cluster-a', { backends: ['10.244.1.5'] });
      await service('cluster-b', { namespace: 'prod' });
    },
    mend: () => remove(['cluster-a', 'production/api'], ['cluster-b', 'prod/api']),
  },
  {
    name: 'a policy names a cluster that does not exist',
    first: 'POL-CLUSTER',
    subject: 'clusterb',
    break: () => {
      const labels = { app: 'frontend', 'io.cilium.k8s.policy.cluster': 'clusterb' };
      lab().agent.policy('other.yaml', policyFor('other', { ingress: [{ fromEndpoints: [{ matchLabels: labels }] }] }));
    },
    mend: () => lab().agent.removePolicy('other.yaml'),
  },
  {
    name: 'a policy is not valid',
    first: 'AGT-POLICY',
    break: () => writeFileSync(join(lab().agent.policies, 'bad.yaml'), 'kind: CiliumNetworkPolicy\nspec: [\n'),
    mend: () => lab().agent.removePolicy('bad.yaml'),
  },
];

breakTests(lab, [...MACHINE, ...NETWORK]);
