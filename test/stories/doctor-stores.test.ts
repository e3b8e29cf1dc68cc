import { renameSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Break, breakTests, type DoctorLab, startDoctorLab, untilFine } from '../lab/doctor-lab.ts';
import { Door } from '../lab/door.ts';
import { Etcd } from '../lab/etcd.ts';
import { configKey, configValue, HEARTBEAT } from '../lab/values.ts';

/** The way to a store is broken in each of its steps; the doctor names the step. */
let started: DoctorLab;
const lab = () => started.lab;
const a = () => lab().cluster('cluster-a');
const b = () => lab().cluster('cluster-b');
const nodeB = () => b().node.place.namespace;
const machine = () => lab().machine.namespace;
/** A second address of the node of cluster-b, which no certificate carries. */
const OTHER = '192.168.100.39';
const STORE_B = '192.168.100.31';

let quorum: Etcd;
const doors: Door[] = [];
const servers: Server[] = [];

before(async () => {
  started = await startDoctorLab();
  nodeB().run('ip', 'address', 'add', `${OTHER}/24`, 'dev', 'eth0');
  quorum = await Etcd.start({ members: 3 });
  await quorum.put(configKey('cluster-c'), configValue(3, 'direct'));
  await quorum.put(HEARTBEAT, new Date().toISOString());
});
after(async () => {
  for (const door of doors) await door.close();
  for (const server of servers) server.close();
  await quorum?.close();
  await started?.close();
});

const connectB = (change: (text: string) => string): void => {
  lab().agent.cluster('cluster-b', change(b().etcdConfig('remote')));
};
const reconnectB = (): void => lab().connect('cluster-b');
const credentials = () => lab().credentials;
const renew = (): void => a().pki.replace(credentials(), a().pki.client('externalworkload'));
const plain = (name: string, endpoint: string): void => lab().agent.cluster(name, `endpoints:\n- ${endpoint}\n`);
const nft = (where: typeof machine, rules: string) => (): void => {
  where().feed(rules, 'nft', '-f', '-');
};
const noTable = (where: typeof machine) => (): void => {
  where().run('nft', 'delete', 'table', 'inet', 'other');
};
const table = (...lines: string[]): string => `table inet other {\nchain c {\n${lines.join('\n')}\n}\n}\n`;

async function door(port: number, to: { host: string; port: number }): Promise<void> {
  doors.push(await Door.open(b().node.place, { host: OTHER, port }, to));
}

/** What a firewall that knows of the overlay lets out. */
const ORDINARY = [
  'oif lo accept',
  'udp dport 8472 accept',
  'icmp type echo-request accept',
  'meta l4proto ipv6-icmp accept',
];

const BREAKS: readonly Break[] = [
  {
    name: 'the CA of another cluster is configured',
    first: 'KVS-TLS-UNTRUSTED',
    subject: 'cluster-b',
    break: () => connectB((text) => text.replace(/trusted-ca-file: .*/, `trusted-ca-file: ${a().pki.ca}`)),
    mend: reconnectB,
  },
  {
    name: 'our certificate is expired',
    first: 'CFG-CERTIFICATE',
    follows: ['KVS-TLS-EXPIRED'],
    break: () => {
      a().pki.replace(credentials(), a().pki.client('externalworkload', { valid: 'past' }));
      a().door.cut();
    },
    mend: renew,
  },
  {
    name: 'our certificate is of another authority',
    first: 'KVS-TLS-CLIENT',
    subject: 'cluster-a',
    break: () => {
      a().pki.replace(credentials(), b().pki.client('externalworkload'));
      a().door.cut();
    },
    mend: renew,
  },
  {
    name: 'the private key is that of another certificate',
    first: 'CFG-CERTIFICATE',
    break: () => {
      const { key } = a().pki.client('externalworkload');
      connectB((text) => text.replace(/key-file: .*/, `key-file: ${key}`));
    },
    mend: reconnectB,
  },
  {
    name: 'the file of a certificate is gone',
    first: 'CFG-FILE',
    break: () => connectB((text) => text.replace(/cert-file: .*/, 'cert-file: /nowhere/tls.crt')),
    mend: reconnectB,
  },
  {
    name: 'the certificate of the store is for another name',
    first: 'KVS-TLS-NAME',
    subject: 'cluster-b',
    break: async () => {
      const { address, port } = b().etcd.members[0] ?? { address: '', port: 0 };
      await door(2379, { host: address, port });
      connectB((text) => text.replace(STORE_B, OTHER));
    },
    mend: reconnectB,
  },
  {
    name: 'the name of a store cannot be resolved',
    first: 'KVS-DNS',
    subject: 'cluster-b',
    break: () => connectB((text) => text.replace(STORE_B, 'store.invalid')),
    mend: reconnectB,
  },
  {
    name: 'nobody listens',
    first: 'KVS-REFUSED',
    subject: 'cluster-b',
    break: () => b().door.shut(),
    mend: () => b().door.open(),
  },
  {
    name: 'the store hangs',
    first: 'KVS-TIMEOUT',
    subject: 'cluster-b',
    break: () => b().door.hang(),
    mend: () => {
      b().door.resume();
      b().door.cut();
    },
  },
  {
    name: 'a rule of another program drops packets to the store',
    first: 'HST-FIREWALL',
    follows: ['KVS-TIMEOUT'],
    break: nft(
      machine,
      table(
        'type filter hook output priority 0',
        'ct state established,related accept',
        'ct state vmap { invalid : drop }',
        `ip daddr ${STORE_B} tcp dport 2379 counter drop`,
      ),
    ),
    mend: noTable(machine),
  },
  {
    name: 'a firewall drops by default what leaves, and does not know of the store',
    first: 'HST-FIREWALL',
    follows: ['KVS-TIMEOUT'],
    break: nft(
      machine,
      table('type filter hook output priority 0; policy drop', ...ORDINARY, 'ip daddr 192.168.100.21 accept'),
    ),
    mend: noTable(machine),
  },
  {
    name: 'the store hangs, and there is an ordinary firewall',
    first: 'KVS-TIMEOUT',
    subject: 'cluster-b',
    break: () => {
      nft(
        machine,
        table(
          'type filter hook input priority 0; policy drop',
          'ct state established,related accept',
          'iif lo accept',
          'udp dport 8472 accept',
          'meta l4proto ipv6-icmp accept',
        ),
      )();
      b().door.hang();
    },
    mend: () => {
      noTable(machine)();
      b().door.resume();
      b().door.cut();
    },
  },
  {
    name: 'a firewall in the network drops packets to the store',
    first: 'KVS-TIMEOUT',
    subject: 'cluster-b',
    break: nft(nodeB, table('type filter hook input priority 0', 'tcp dport 2379 drop')),
    mend: noTable(nodeB),
  },
  {
    name: 'there is no route to a store',
    first: 'HST-ROUTE',
    subject: 'cluster-c',
    break: () => {
      machine().run('ip', 'route', 'delete', 'default');
      plain('cluster-c', 'http://198.51.100.9:2379');
    },
    mend: () => {
      machine().run('ip', 'route', 'add', 'default', 'via', '192.168.100.1');
      lab().agent.removeCluster('cluster-c');
    },
  },
  {
    name: 'a store has lost its quorum',
    first: 'KVS-NO-QUORUM',
    subject: 'cluster-c',
    break: async () => {
      const [alive, ...others] = quorum.members;
      await door(12379, { host: alive?.address ?? '', port: alive?.port ?? 0 });
      for (const member of others) await member.kill();
      plain('cluster-c', `http://${OTHER}:12379`);
    },
    mend: () => lab().agent.removeCluster('cluster-c'),
  },
  {
    name: 'something else than an etcd listens',
    first: 'KVS-NOT-ETCD',
    subject: 'cluster-c',
    break: async () => {
      const server = await b().node.place.door(OTHER, 8080);
      server.on('connection', (socket) => {
        socket.on('error', () => undefined);
        socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n'));
      });
      servers.push(server);
      plain('cluster-c', `http://${OTHER}:8080`);
    },
    mend: () => lab().agent.removeCluster('cluster-c'),
  },
  {
    name: 'a store without TLS is reached with TLS',
    first: 'KVS-NOT-TLS',
    subject: 'cluster-b',
    break: () => connectB((text) => text.replace(`${STORE_B}:2379`, `${OTHER}:8080`)),
    mend: reconnectB,
  },
  {
    name: 'a store with TLS is reached without',
    first: 'KVS-NOT-PLAIN',
    subject: 'cluster-b',
    break: () => plain('cluster-b', `http://${STORE_B}:2379`),
    mend: reconnectB,
  },
  {
    name: 'our user is revoked in the store',
    first: 'KVS-AUTH',
    subject: 'cluster-b',
    break: async () => {
      await b().etcd.ctl('user', 'delete', 'remote');
      b().door.cut();
    },
    mend: async () => {
      await b().etcd.ctl('user', 'add', 'remote', '--no-password');
      await b().etcd.ctl('user', 'grant-role', 'remote', 'remote');
    },
  },
  {
    name: 'two clusters have one id',
    first: 'MSH-CLUSTER-ID',
    subject: 'cluster-b',
    break: () => b().etcd.put(configKey('cluster-b'), configValue(1, 'direct')),
    mend: () => b().facts.publish(),
  },
  {
    name: 'the file of a cluster has not the name of the cluster',
    first: 'MSH-CLUSTER-NAME',
    subject: 'cluster-x',
    break: () => {
      const { clustermesh } = lab().agent;
      renameSync(join(clustermesh, 'cluster-b'), join(clustermesh, 'cluster-x'));
    },
    mend: () => {
      lab().agent.removeCluster('cluster-x');
      reconnectB();
    },
  },
  {
    name: 'the file of a cluster is not valid',
    first: 'KVS-CONFIG',
    subject: 'cluster-b',
    break: () => writeFileSync(join(lab().agent.clustermesh, 'cluster-b'), 'endpoints: https://192.168.100.31:2379\n'),
    mend: reconnectB,
  },
  {
    name: 'nobody writes the heartbeat any more',
    first: 'KVS-HEARTBEAT',
    subject: 'cluster-b',
    exit: 0,
    break: async () => {
      b().facts.silence();
      await b().etcd.put(HEARTBEAT, new Date(Date.now() - 3_600_000).toISOString());
      // So that nobody has seen it go on.
      await lab().agent.kill();
      lab().agent.start();
      await lab().agent.untilReady();
    },
    mend: () => b().facts.publish(),
  },
  {
    name: 'the clock of this machine is an hour behind',
    first: 'HST-CLOCK',
    subject: 'cluster-b',
    break: () => b().etcd.put(HEARTBEAT, new Date(Date.now() + 3_600_000).toISOString()),
    mend: () => b().facts.publish(),
  },
];

breakTests(lab, BREAKS);

test('a firewall that lets pass what the agent needs, and drops the rest, is no finding', async () => {
  nft(
    machine,
    table(
      'type filter hook output priority 0; policy drop',
      'ct state established,related accept',
      ...ORDINARY,
      'ip daddr 192.168.100.0/24 accept',
      'ip6 daddr fd00::/16 accept',
      'tcp dport 2379 drop',
      'drop',
    ),
  )();
  try {
    await untilFine(lab());
  } finally {
    noTable(machine)();
  }
});
