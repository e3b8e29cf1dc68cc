import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { askRecord } from '../../src/api/ask.ts';
import type { ConnectAnswer, RemoteClusterRecord } from '../../src/hub/clusters/records.ts';
import { readEtcdConfig } from '../../src/kvstore/etcd-config.ts';
import { runHere } from '../cli/run-here.ts';
import { StandInCluster } from '../lab/cluster.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { type CertificateFiles, Pki } from '../lab/pki.ts';
import { furnish } from './cache-lab.ts';
import { HubProcess } from './hub-process.ts';

process.env.MESH_TEST_HUB_PARTS = 'all';
let hub: HubProcess;
let pki: Pki;
let source: Etcd;
let east: StandInCluster;
let client: CertificateFiles;
const folder = mkdtempSync(join(tmpdir(), 'mesh-clusters-'));

/** A cluster as it is: TLS, users, and a role for us. */
before(async () => {
  pki = new Pki('east-ca');
  const [server, admin] = [pki.server(), pki.client('root')];
  client = pki.client('remote');
  source = await Etcd.start({ tls: { server, admin }, serverName: 'localhost', address: '127.0.0.1', port: 22_379 });
  await source.addUser('remote', [
    { permission: 'read', prefix: 'cilium/.heartbeat' },
    { permission: 'read', prefix: 'cilium/state/' },
    { permission: 'read', key: 'cilium/cluster-config/east' },
    { permission: 'read', prefix: 'cilium/synced/east/' },
  ]);
  await source.enableAuth();
  const etcd = { endpoints: source.endpoints, ca: admin.ca, cert: admin.cert, key: admin.key };
  east = new StandInCluster({ name: 'east', id: 7, etcd, heartbeatMs: 500 });
  await furnish(east, '7');
  await east.publish();
  hub = await HubProcess.make();
  await hub.run();
});

after(async () => {
  await hub.close();
  await east.close();
  await source.close();
  pki.close();
  rmSync(folder, { recursive: true, force: true });
});

function run(...args: string[]): ReturnType<typeof runHere> {
  return runHere(['hub', ...args, '--socket', hub.socket]);
}

function config(
  name: string,
  files: Partial<CertificateFiles>,
  endpoints: readonly string[] = source.endpoints,
): string {
  const path = join(folder, name);
  const { ca, cert, key } = files;
  writeFileSync(path, stringify({ endpoints, 'trusted-ca-file': ca, 'cert-file': cert, 'key-file': key }));
  return path;
}

const record = (name: string): Promise<RemoteClusterRecord> =>
  askRecord({ socket: hub.socket, whom: 'hub' }, `/v1/clusters/${name}`);

async function untilReady(name: string): Promise<RemoteClusterRecord> {
  let last: RemoteClusterRecord | undefined;
  await until(
    `${name} is ready`,
    async () => {
      last = await record(name).catch(() => undefined);
      return last?.ready === true;
    },
    30_000,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${JSON.stringify(last)}\n${hub.log}`);
  });
  return last as RemoteClusterRecord;
}

test('a cluster is connected, shown, and disconnected by the command line', async () => {
  const connected = await run('cluster', 'connect', 'east', '--config', config('east', client));
  assert.equal(connected.code, 0, connected.stdout + connected.stderr);
  assert.match(
    connected.stdout,
    /^Cluster east is connected\.\n {3}✅ connection: connected to https:\/\/localhost:22379/,
  );
  assert.match(connected.stdout, /✅ id: 7 of 255\n/);
  const ready = await untilReady('east');
  assert.deepEqual(ready.counts, { identities: 2, nodes: 1, ip: 4, services: 1, serviceexports: 0, endpointslices: 0 });
  const list = await run('cluster', 'list');
  assert.match(
    list.stdout,
    /^Name +ID +Ready +Connected +Nodes +Endpoints +Identities +Services +Problems\neast +7 +ready +true +1 +4 +2 +1 +2\n$/,
  );
  const status = await run('cluster', 'status', 'east');
  // The authority of the test lives for two days.
  assert.equal(status.code, 4, status.stdout);
  assert.deepEqual(
    (await record('east')).verdicts.flatMap(({ code }) => code ?? []),
    ['HUB-CLUSTER-CERTIFICATE', 'HUB-CLUSTER-CERTIFICATE'],
  );
  for (const words of [
    'Cluster "east":\n   east: ready, 1 node, 4 endpoints, 2 identities, 1 service, 0 reconnections (last: never)\n',
    'remote configuration: expected=true, retrieved=true, cluster-id=7, kvstoremesh=false, sync-canaries=true, service-exports=unsupported\n',
    'synchronization status: nodes=true, endpoints=true, identities=true, services=true\n',
    'Subject:             CN=remote\n',
    '✅ canaries: all there, and everything is copied\n',
  ])
    assert(status.stdout.includes(words), `${words}\n${status.stdout}`);
  const overview = (await run('status')).stdout;
  for (const line of [
    /^Workloads: +0 workloads: 0 registered, 0 waiting, 0 expired, 0 revoked$/m,
    /^Clusters: +1\/1 ready$/m,
    /^ +east: ready, connected, 1 node, 4 endpoints, 2 identities, 1 service, no failure$/m,
    /^Leader: .*\(this hub\), for /m,
    /^etcd: +own, running, .*quota/m,
    /^ +https:\/\/.*used of .* MiB, revision \d+$/m,
    /^Certificate: +server until /m,
  ])
    assert.match(overview, line);
  const cilium = await askRecord<Record<string, unknown>[]>({ socket: hub.socket, whom: 'hub' }, '/v1/cluster');
  const { status: line, ...rest } = cilium[0] ?? {};
  assert.match(String(line), /^etcd: 1\/1 connected, leases=0, lock leases=0, has-quorum=true/);
  assert.deepEqual(rest, {
    config: { 'cluster-id': 7, required: true, retrieved: true, 'sync-canaries': true },
    connected: true,
    'last-failure': '0001-01-01T00:00:00.000Z',
    name: 'east',
    'num-endpoints': 4,
    'num-identities': 2,
    'num-nodes': 1,
    'num-shared-services': 1,
    ready: true,
    synced: { endpoints: true, identities: true, nodes: true, services: true },
  });
  const document = await hub.open().get('mesh-agent/v1/clusters/east');
  assert(document?.value.includes('PRIVATE KEY'), 'the store keeps how it is reached');
  const shown =
    (await run('cluster', 'status', 'east', '-o', 'json')).stdout + (await run('status', '-o', 'json')).stdout;
  assert(!shown.includes('PRIVATE KEY') && !shown.includes('BEGIN CERTIFICATE'), 'and nobody shows it');
  const machine = hub.open(await hub.client('machine:none'));
  await assert.rejects(machine.get('mesh-agent/v1/clusters/east'));
  const again = await run('cluster', 'connect', 'east', '--config', config('east', client));
  assert.match(again.stdout, /^Cluster east was connected like that\./);
  await source.kill();
  await until(
    'hub status tells the failure',
    async () => /^ +east: NOT ready, NOT connected, .*last failure .*\(KVS-/m.test((await run('status')).stdout),
    30_000,
  );
  await source.restart();
  await untilReady('east');
  const gone = await run('cluster', 'disconnect', 'east');
  assert.deepEqual([gone.code, gone.stdout], [0, 'Cluster east is disconnected.\n']);
  assert.match((await run('cluster', 'disconnect', 'east')).stderr, /HUB-CLUSTER-UNKNOWN/);
  await until('it is forgotten', async () => (await run('cluster', 'list')).stdout.split('\n').length === 2);
});

test('what can never work is refused at the door, with the reason', async () => {
  const other = new Pki('other-ca');
  const key = join(folder, 'garbage.key');
  writeFileSync(key, 'no key');
  const stranger = pki.client('nobody');
  const cases: readonly [string[], RegExp][] = [
    [['vms', config('vms', client)], /is the cluster of this hub \(HUB-CLUSTER\)/],
    [['East!', config('bad', client)], /is no name of a cluster/],
    [
      ['east', config('pair', { ...client, key: pki.client('other').key })],
      /the key does not belong to the client certificate/,
    ],
    [['east', config('garbage', { ...client, key })], /there is no PEM private key without a password/],
    [['east', config('old', pki.client('remote', { valid: 'past' }))], /the client certificate expired on/],
    [['east', config('none', { ca: client.ca, cert: client.cert })], /must be given together/],
    [
      ['east', config('mixed', client, ['https://a:1', 'http://b:2'])],
      /without TLS although certificates are configured/,
    ],
    [['east', join(folder, 'missing')], /no such file.*\(KVS-FILE\)/s],
  ];
  for (const [[name = '', file = ''], expected] of cases) {
    const { code, stderr } = await run('cluster', 'connect', name, '--config', file);
    assert.equal(code, 1, name);
    assert.match(stderr, expected);
    assert(!stderr.includes('no key'), 'a key is not quoted');
  }
  assert.equal((await run('cluster', 'list')).stdout.split('\n').length, 2, 'nothing was kept');
  // What may mend itself is kept, and told apart.
  const verdict = async (file: string): Promise<string> => {
    const { code, stdout } = await run('cluster', 'connect', 'east', '--config', file, '-o', 'json');
    assert.equal(code, 4);
    const { verdicts } = JSON.parse(stdout) as ConnectAnswer;
    return verdicts.find(({ state }) => state !== 'ok')?.code ?? '';
  };
  assert.equal(await verdict(config('dns', client, ['https://nowhere.invalid:2379'])), 'KVS-DNS');
  assert.equal(await verdict(config('port', client, ['https://127.0.0.1:22999'])), 'KVS-REFUSED');
  assert.equal(await verdict(config('ca', { ...client, ca: other.ca })), 'KVS-TLS-UNTRUSTED');
  assert.equal(await verdict(config('cert', { ...other.client('remote'), ca: client.ca })), 'KVS-TLS-CLIENT');
  assert.equal(await verdict(config('name', client, ['https://127.0.0.2:22379'])), 'KVS-REFUSED');
  assert.equal(await verdict(config('user', stranger)), 'KVS-AUTH');
  await until('the status tells it, too', async () => {
    const { verdicts = [] } = await record('east');
    return verdicts.some(({ code }) => code === 'KVS-AUTH');
  });
  other.close();
  await run('cluster', 'disconnect', 'east');
});

test('a certificate is rotated by connecting again, and copying goes on', async () => {
  assert.equal((await run('cluster', 'connect', 'east', '--config', config('east', client))).code, 0);
  await untilReady('east');
  const next = pki.client('remote');
  const changed = await run('cluster', 'connect', 'east', '--config', config('east', next));
  assert.match(changed.stdout, /^Cluster east is reached in another way\./);
  const pem = readFileSync(next.cert, 'utf8');
  const file = join(hub.folder.path, 'clusters/east/client.crt');
  await until('the new one is in use', async () => readFileSync(file, 'utf8') === pem && (await record('east')).ready);
  assert.equal(statSync(join(hub.folder.path, 'clusters/east/client.key')).mode & 0o777, 0o600);
  await east.pod({ name: 'late', namespace: 'default', labels: { app: 'late' }, addresses: ['10.7.0.99'] });
  const store = hub.open();
  await until('a change arrives', async () => (await store.get('cilium/cache/ip/v1/east/10.7.0.99')) !== undefined);
  await run('cluster', 'disconnect', 'east');
});

test('what is exported lets a cluster read the hub, in each form, until it is revoked', async () => {
  const dir = join(folder, 'export');
  const exported = await run('cluster', 'export', 'east', '--dir', dir);
  assert.equal(exported.code, 0, exported.stderr);
  assert.equal(statSync(join(dir, 'vms.etcd-client.key')).mode & 0o777, 0o600);
  const etcd = await readEtcdConfig(join(dir, 'vms'));
  const { port } = new URL(etcd.endpoints[0] ?? '');
  assert.equal(etcd.endpoints[0], `https://hub.example.com:${port}`);
  const reader = hub.open({ ...etcd, endpoints: [hub.endpoint] });
  const config = await reader.get('cilium/cluster-config/vms');
  assert.match(config?.value.toString() ?? '', /"id":100/);
  await assert.rejects(reader.get('mesh-agent/v1/clusters/east'), /permission denied/);
  await assert.rejects(reader.put('cilium/state/x', 'y'), /permission denied/);
  await assert.rejects(reader.get('cilium/cache/ip/v1/east/10.7.0.5'), /permission denied/);

  const files = parse((await run('cluster', 'export', 'east')).stdout) as Record<string, string>;
  assert.deepEqual(Object.keys(files).sort(), [
    'vms',
    'vms.etcd-client-ca.crt',
    'vms.etcd-client.crt',
    'vms.etcd-client.key',
  ]);
  assert.deepEqual(parse(files.vms ?? ''), {
    endpoints: [`https://hub.example.com:${port}`],
    'trusted-ca-file': '/var/lib/cilium/clustermesh/vms.etcd-client-ca.crt',
    'cert-file': '/var/lib/cilium/clustermesh/vms.etcd-client.crt',
    'key-file': '/var/lib/cilium/clustermesh/vms.etcd-client.key',
  });

  const text = (await run('cluster', 'export', 'east', '--form', 'helm')).stdout;
  assert.match(text, /^# Cluster vms \(id 100, of 255\), for cluster east: user remote-east, until /);
  const values = parse(text) as {
    clustermesh: { config: { clusters: { tls: Record<string, string> }[] } };
  };
  const [cluster] = values.clustermesh.config.clusters;
  const { tls, ...where } = cluster ?? { tls: {} };
  assert.deepEqual(where, { name: 'vms', address: 'hub.example.com', port: Number(port) });
  const decode = (base64 = ''): string => Buffer.from(base64, 'base64').toString();
  assert.match(decode(tls.cert), /^-----BEGIN CERTIFICATE-----/);
  assert.match(decode(tls.key), /^-----BEGIN PRIVATE KEY-----/);
  assert.equal(decode(tls.caCert), readFileSync(hub.folder.ca.cert, 'utf8'));

  const secrets = parseAllDocuments((await run('cluster', 'export', 'east', '--form', 'secret')).stdout).map(
    (each) => each.toJS() as { metadata: { name: string }; data: Record<string, string> },
  );
  assert.deepEqual(
    secrets.map(({ metadata, data }) => [metadata.name, Object.keys(data).sort()]),
    [
      ['cilium-kvstoremesh', Object.keys(files).sort()],
      ['cilium-clustermesh', ['vms']],
    ],
  );
  assert.equal(
    (parse(decode(secrets[1]?.data.vms)) as { endpoints: string[] }).endpoints[0],
    'https://clustermesh-apiserver.kube-system.svc:2379',
  );

  assert.equal((await run('cluster', 'export', 'east', '--revoke')).code, 0);
  const late = hub.open({ ...etcd, endpoints: [hub.endpoint] });
  await assert.rejects(late.get('cilium/cluster-config/vms'));
});
