import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import type { NameServerRecord, StatusRecord } from '../../src/api/types.ts';
import { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A } from '../lab/story.ts';
import { buildPackage } from './build.ts';
import { configure } from './joined.ts';
import { SystemdMachine } from './systemd-machine.ts';

/** Names of services on a machine with systemd-resolved: as a package installs it, in the sandbox of its unit. */
const API = 'api.production.svc.cluster.local';
const SETTINGS = '/etc/mesh-agent/conf.d/30-dns.yaml';

let lab: MeshLab;
let machine: SystemdMachine;
let folder: string;
let resolvConf: string;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-names-'));
  const deb = await buildPackage('deb', folder);
  lab = await MeshLab.start([CLUSTER_A]);
  const pod = lab.cluster('cluster-a').place('frontend');
  await pod.listen({ tcp: [80] });
  const port = { http: { Protocol: 'TCP', Port: 80 } };
  await lab.cluster('cluster-a').facts.service({
    namespace: 'production',
    name: 'api',
    frontends: { '10.96.0.10': port },
    backends: { [pod.ipv4]: port },
  });
  machine = new SystemdMachine(lab.machine.namespace, join(folder, 'machine'));
  machine.copy(deb, `/root/${basename(deb)}`);
  await machine.boot();
  await machine.must('dpkg', '-i', `/root/${basename(deb)}`);
  configure(machine, lab);
  machine.write(SETTINGS, 'dns: {enabled: true}\n');
  resolvConf = await machine.must('cat', '/etc/resolv.conf');
});
after(async () => {
  await machine?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function untilNames(what: string, wanted: (dns: NameServerRecord | undefined) => boolean): Promise<void> {
  await until(
    what,
    async () => {
      const status = await machine.status();
      return status?.state === 'ok' && wanted(status.dns);
    },
    60_000,
  );
}

const untilRegistered = (): Promise<void> =>
  untilNames('resolved asks the agent', (dns) => dns?.resolved === 'registered');

/** Undefined while there is no device. */
async function linkIndex(): Promise<number | undefined> {
  const { code, stdout } = await machine.run('ip', '-json', 'link', 'show', 'dev', 'mesh_dns');
  return code === 0 ? (JSON.parse(stdout) as { ifindex: number }[])[0]?.ifindex : undefined;
}

async function assertGone(): Promise<void> {
  assert.equal(await linkIndex(), undefined);
  assert.equal((await machine.must('resolvectl', 'domain')).includes('svc.cluster.local'), false);
  assert.notEqual((await machine.run('getent', 'hosts', API)).code, 0);
}

test('what the C library resolves by way of resolved is the service, and it is reached by name', async () => {
  await machine.must('systemctl', 'enable', '--now', 'mesh-agent');
  await untilRegistered();
  assert.match(await machine.must('getent', 'ahostsv4', API), /^10\.96\.0\.10 +STREAM/);
  assert.match(await machine.must('resolvectl', 'query', `api.production.svc.clusterset.local`), /: 10\.96\.0\.10/);
  const srv = await machine.must('resolvectl', 'query', '--type=SRV', `_http._tcp.${API}`);
  assert.match(srv, /SRV 0 100 80 api\.production\.svc\.cluster\.local/);
  const nobody = await machine.run('resolvectl', 'query', 'nobody.production.svc.cluster.local');
  assert.match(nobody.stderr, /not found/);
  assert.equal(await machine.must('sh', '-c', `echo by-name | nc -w 3 ${API} 80`), 'by-name\n');
});

test('no other name comes to the agent, and resolv.conf is as it was', async () => {
  assert.notEqual((await machine.run('resolvectl', 'query', 'www.example.com')).code, 0);
  const { messages } = (await machine.status())?.dns ?? assert.fail('no names');
  assert.equal(messages.refused, undefined);
  assert.equal(await machine.must('cat', '/etc/resolv.conf'), resolvConf);
  assert.match(
    await machine.must('resolvectl', 'status', 'mesh_dns'),
    /-DefaultRoute -LLMNR -mDNS -DNSOverTLS DNSSEC=no/,
  );
});

test('a resolved that is started anew still asks here', async () => {
  await machine.must('systemctl', 'restart', 'systemd-resolved');
  await until('it resolves again', async () => (await machine.run('getent', 'hosts', API)).code === 0);
});

test('an agent that was killed finds its setting and leaves it, and makes it anew when somebody took it away', async () => {
  const before = await linkIndex();
  assert.ok(before !== undefined);
  await machine.must('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', 'mesh-agent');
  await untilRegistered();
  assert.equal(await linkIndex(), before);
  await machine.must('resolvectl', 'revert', 'mesh_dns');
  assert.notEqual((await machine.run('getent', 'hosts', API)).code, 0);
  await machine.must('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', 'mesh-agent');
  await untilRegistered();
  assert.equal((await machine.run('getent', 'hosts', API)).code, 0);
});

test('an agent in a network namespace of its own leaves the resolved of the machine alone', async () => {
  const before = await machine.must('resolvectl', 'domain');
  const folder = '/var/lib/other';
  machine.write(`${folder}/config.yaml`, 'name: other\ndatapath: none\ndns: {enabled: true}\nmetrics: {listen: ""}\n');
  await machine.must('ip', 'netns', 'add', 'other');
  await machine.must('ip', '-n', 'other', 'link', 'set', 'lo', 'up');
  const where = ['--config', `${folder}/config.yaml`, '--state-dir', folder, '--socket', `${folder}/agent.sock`];
  const there = ['nsenter', '--net=/run/netns/other'];
  await machine.must('systemd-run', '--unit=other', ...there, 'mesh-agent', 'run', ...where);
  let seen: StatusRecord | undefined;
  await until('it knows that nobody will ask', async () => {
    const { stdout } = await machine.run('mesh-agent', 'status', '-o', 'json', ...where);
    seen = stdout === '' ? undefined : (JSON.parse(stdout) as StatusRecord);
    return seen?.dns?.resolved === 'elsewhere';
  }).catch((error: unknown) => assert.fail(`${error}: ${JSON.stringify([seen?.dns, seen?.health])}`));
  assert.equal(await machine.must('resolvectl', 'domain'), before);
  assert.equal((await machine.must('ip', '-n', 'other', 'link')).includes('mesh_dns'), false);
  await machine.must('systemctl', 'stop', 'other');
});

test('stopped, it leaves nothing, and starts as before', async () => {
  await machine.must('systemctl', 'stop', 'mesh-agent');
  await assertGone();
  await machine.must('systemctl', 'start', 'mesh-agent');
  await untilRegistered();
});

test('where names are not wanted any more, what a killed agent left is taken away', async () => {
  machine.write(SETTINGS, 'dns: {enabled: false}\n');
  assert.notEqual(await linkIndex(), undefined);
  await machine.must('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', 'mesh-agent');
  await untilNames('names are off', (dns) => dns === undefined);
  await until('the device is gone', async () => (await linkIndex()) === undefined);
  await assertGone();
});

test('a machine that leaves the mesh takes its names along, also after a kill', async () => {
  machine.write(SETTINGS, 'dns: {enabled: true}\n');
  await machine.must('systemctl', 'restart', 'mesh-agent');
  await untilRegistered();
  await machine.must('systemctl', 'mask', '--runtime', 'mesh-agent');
  await machine.must('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', 'mesh-agent');
  await until('it is dead', async () => (await machine.run('pgrep', '-x', 'mesh-agent')).code !== 0);
  assert.notEqual(await linkIndex(), undefined);
  await machine.must('mesh-agent', 'leave', '--yes');
  await assertGone();
});
