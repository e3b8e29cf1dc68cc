import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { ServiceRecord } from '../../src/api/types.ts';
import { DnsPlace } from '../lab/dns.ts';
import { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, enforce, policyFor } from '../lab/story.ts';

/** Programs of the machine reach services by name: what the C library resolves, and where it then connects. */
const LISTEN = '127.0.0.153';
const PORT = { http: { Protocol: 'TCP', Port: 80 } };
const GRACE_S = 2;
const API = 'api.production.svc.cluster.local';
const DB = 'db.production.svc.cluster.local';

let lab: MeshLab;
let client: DnsPlace;

before(async () => {
  lab = await MeshLab.start([CLUSTER_A, CLUSTER_B], {
    config: { dns: { enabled: true, resolved: 'off' }, services: { lossGrace: `${GRACE_S}s` } },
  });
  lab.connect('cluster-b');
  for (const name of ['cluster-a', 'cluster-b'])
    for (const pod of lab.cluster(name).pods.values()) await pod.listen({ tcp: [80] });
  writeFileSync(join(lab.agent.stateDir, '..', 'resolv.conf'), `nameserver ${LISTEN}\noptions timeout:1 attempts:2\n`);
  client = await DnsPlace.open(lab.machine);
});
after(async () => {
  await client?.close();
  await lab?.close();
});

const pods = (cluster: string): string[] => [...lab.cluster(cluster).pods.values()].map(({ ipv4 }) => ipv4);

async function announce(
  cluster: string,
  name: string,
  vip: string | undefined,
  backends = pods(cluster),
): Promise<void> {
  await lab.cluster(cluster).facts.service({
    namespace: 'production',
    name,
    frontends: vip === undefined ? {} : { [vip]: PORT },
    backends: Object.fromEntries(backends.map((address) => [address, PORT])),
  });
}

/** What the C library of a program on the machine makes of a name; the name server is in its resolv.conf. */
function resolve(...command: string[]): { code: number; stdout: string } {
  const file = join(lab.agent.stateDir, '..', 'resolv.conf');
  const bound = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
  return lab.machine.namespace.try('unshare', '--mount', 'sh', '-c', bound, file, ...command);
}

function addressesOf(name: string): string[] {
  const lines = resolve('getent', 'ahostsv4', name)
    .stdout.split('\n')
    .filter((line) => line.includes('STREAM'));
  return lines.map((line) => line.split(' ')[0] ?? '').sort();
}

async function leads(name: string, addresses: readonly string[]): Promise<void> {
  const wanted = [...addresses].sort().join();
  await until(`${name} is ${wanted}`, () => addressesOf(name).join() === wanted, 30_000);
}

test('an address that another program has costs the names, not the enforcement, and only as long as it has it', async () => {
  const taker = lab.machine.namespace.start('socat', [`UDP4-RECV:53,bind=${LISTEN}`, '-']);
  await until('it is taken', () => lab.machine.namespace.run('ss', '-lun').includes(`${LISTEN}:53`));
  lab.agent.start();
  const { text, place } = await lab.agent.untilHealth('AGT-DNS', 'dns');
  assert.match(text, /EADDRINUSE/);
  assert.equal(place, `${LISTEN}:53`);
  const { datapath } = await lab.agent.untilReady();
  assert.equal(datapath.applied, true);
  taker.kill();
  await lab.agent.untilStatus('it serves', ({ dns }) => dns?.serving === true);
  await lab.agent.untilStatus('the trouble is over', ({ health }) => health.every(({ code }) => code !== 'AGT-DNS'));
});

test('a global service is resolved by its name, and the connection reaches a backend', async () => {
  await announce('cluster-a', 'api', '10.96.0.10');
  await announce('cluster-b', 'api', '10.97.0.10');
  await leads(API, ['10.96.0.10']);
  await leads('api.production.svc.clusterset.local', ['10.96.0.10']);
  const { stdout } = resolve('sh', '-c', 'echo by-name | nc -w 3 "$0" 80', API);
  assert.equal(stdout, 'by-name\n');
});

test('people see it: status, metrics and service list', async () => {
  const { stdout } = await lab.agent.run('status');
  assert.match(
    stdout,
    /DNS: +svc\.cluster\.local, svc\.clusterset\.local: 127\.0\.0\.153:53; systemd-resolved is left alone; \d+ messages/,
  );
  assert.equal(resolve('getent', 'ahostsv4', 'nobody.production.svc.cluster.local').code, 2);
  const { dns } = await lab.agent.status();
  assert.ok((dns?.messages.answered ?? 0) >= 3);
  assert.ok((dns?.messages['no-name'] ?? 0) >= 1);
  const metrics = lab.machine.namespace.run('curl', '-s', 'http://127.0.0.1:9964/metrics');
  assert.match(metrics, /mesh_agent_dns_serving 1/);
  assert.match(metrics, /mesh_agent_dns_messages_total\{outcome="answered"\} [1-9]/);
  const found: ServiceRecord[] = [];
  for await (const each of lab.agent.api.services({ namespace: 'production', name: 'api' })) found.push(each);
  assert.deepEqual(found[0]?.names, [API, 'api.production.svc.clusterset.local']);
  assert.match(
    (await lab.agent.run('service', 'list', '-o', 'wide')).stdout,
    /api\.production\.svc\.clusterset\.local/,
  );
});

test('a policy that denies everything denies no names, and they are not learnt as those of the world', async () => {
  await enforce(lab, policyFor('closed', { egress: [{ toFQDNs: [{ matchPattern: '*.svc.cluster.local' }] }] }));
  await leads(API, ['10.96.0.10']);
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.96.0.10', port: 80 }), 'blocked');
  const names = [];
  for await (const record of lab.agent.api.names()) names.push(record);
  assert.deepEqual(names, []);
  lab.agent.removePolicy('policy.yaml');
  await lab.agent.untilStatus('the policy is gone', ({ policy }) => policy.egress === 'Disabled');
});

test('without a backend the name stays and connections are refused at once; a headless one has no address', async () => {
  await announce('cluster-a', 'empty', '10.96.0.40', []);
  await announce('cluster-a', 'idle', undefined, []);
  await leads('empty.production.svc.cluster.local', ['10.96.0.40']);
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '10.96.0.40', port: 80, timeoutMs: 4000 }), 'refused');
  assert.deepEqual(await client.ask({ server: LISTEN, name: 'idle.production.svc.cluster.local', type: 'A' }), []);
});

test('a cluster that is lost leaves the name of a headless service, and comes back to it', async () => {
  await announce('cluster-a', 'db', undefined);
  await announce('cluster-b', 'db', undefined);
  await leads(DB, [...pods('cluster-a'), ...pods('cluster-b')]);
  await lab.cluster('cluster-b').door.shut();
  await leads(DB, pods('cluster-a'));
  const { stdout } = resolve('sh', '-c', 'echo still | nc -w 3 "$0" 80', DB);
  assert.equal(stdout, 'still\n');
  await leads(API, ['10.96.0.10']);
  await lab.cluster('cluster-b').door.open();
  await leads(DB, [...pods('cluster-a'), ...pods('cluster-b')]);
});

test('an agent that starts while no store answers denies no name, and one that is killed leaves none behind that answers', async () => {
  await lab.agent.kill();
  assert.equal(resolve('getent', 'ahostsv4', API).code, 2);
  for (const name of ['cluster-a', 'cluster-b']) await lab.cluster(name).door.shut();
  lab.agent.start();
  await lab.agent.untilStatus('it serves', ({ dns }) => dns?.serving === true);
  assert.equal(resolve('getent', 'ahostsv4', API).code, 2);
  const { dns } = await lab.agent.status();
  assert.ok((dns?.messages['not-ready'] ?? 0) >= 1);
  assert.equal(dns?.messages['no-name'], undefined);
  for (const name of ['cluster-a', 'cluster-b']) await lab.cluster(name).door.open();
  await lab.agent.untilReady();
  await leads(API, ['10.96.0.10']);
});

test('other settings are in force when a reload returns: another address, other names, nothing, and all of it again', async () => {
  const other = '127.0.0.154';
  const config = { services: { lossGrace: `${GRACE_S}s` } };
  const reload = async (dns: object): Promise<void> => {
    lab.agent.configure({ ...config, dns: { enabled: true, resolved: 'off', ...dns } });
    assert.equal((await lab.agent.json<{ taken: boolean }>('config', 'reload')).taken, true);
  };
  const listens = (): string => lab.machine.namespace.run('ss', '-Hlnut', 'sport', '=', ':53');
  const answered = (await lab.agent.status()).dns?.messages.answered ?? 0;
  await reload({ listen: `${other}:53`, domain: 'mesh.example' });
  assert.ok(listens().includes(other) && !listens().includes(LISTEN));
  const found = await client.ask({ server: other, name: 'api.production.svc.mesh.example', type: 'A' });
  assert.equal(found?.length, 1);
  const { dns } = await lab.agent.status();
  assert.deepEqual(dns?.zones, ['svc.mesh.example', 'svc.clusterset.local']);
  assert.ok((dns?.messages.answered ?? 0) > answered, 'what was counted stays');
  // Without a new server: the same socket answers by the other names.
  const socket = (): string =>
    lab.machine.namespace.run('ss', '-Hlnue', 'sport', '=', ':53').match(/ino:\d+/)?.[0] ?? '';
  const before = socket();
  await reload({ listen: `${other}:53`, ttl: 60 });
  assert.equal(socket(), before);
  assert.equal((await client.ask({ server: other, name: API, type: 'A' }))?.length, 1);
  await reload({ enabled: false });
  assert.equal(listens(), '');
  assert.equal((await lab.agent.status()).dns, undefined);
  await reload({});
  await leads(API, ['10.96.0.10']);
});

test('stopped, it has given its address back', async () => {
  await lab.agent.stop();
  assert.equal(lab.machine.namespace.run('ss', '-Hlnut').includes(LISTEN), false);
});
