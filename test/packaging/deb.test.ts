import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { assertReach, type Expected, PORTS, serveEverywhere } from '../lab/matrix.ts';
import { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CROSS_CLUSTER } from '../lab/story.ts';
import { buildPackage } from './build.ts';
import { configure } from './joined.ts';
import { SystemdMachine } from './systemd-machine.ts';

/** The life of a package on a machine with a real systemd, whose cluster and peers are those of the lab. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'world > my-vm': 'none',
};
const VIP = '10.96.0.10';
const SERVICE_PORTS = { web: { Protocol: 'TCP', Port: 80 } };
const NEXT_VERSION = '99.0.0';

let lab: MeshLab;
let machine: SystemdMachine;
let folder: string;
let packages: { readonly first: string; readonly next: string };

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-packages-'));
  packages = { first: await buildPackage('deb', folder), next: await buildPackage('deb', folder, NEXT_VERSION) };
  lab = await MeshLab.start([CLUSTER_A]);
  await serveEverywhere(lab);
  machine = new SystemdMachine(lab.machine.namespace, join(folder, 'machine'));
  for (const file of Object.values(packages)) machine.copy(file, `/root/${basename(file)}`);
  await machine.boot();
});
after(async () => {
  await machine?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

const status = () => machine.status();
const untilEnforced = () => machine.untilEnforced();
const rules = (): Promise<{ code: number; stdout: string }> =>
  machine.run('nft', 'list', 'table', 'inet', 'mesh_agent');

test('an installation starts nothing and enforces nothing', async () => {
  await machine.must('dpkg', '-i', `/root/${basename(packages.first)}`);
  assert.equal((await machine.run('systemctl', 'is-active', 'mesh-agent')).stdout, 'inactive\n');
  assert.equal((await machine.run('systemctl', 'is-enabled', 'mesh-agent')).stdout, 'disabled\n');
  assert.notEqual((await rules()).code, 0);
  await machine.must('mesh-agent', 'config', 'check');
});

test('the program needs no place to write to, nor one to run files from but one', async () => {
  // The last command loads the native module and asks the kernel; there is nothing of ours in it yet.
  const closed = [
    'mount -t tmpfs -o noexec tmpfs /tmp',
    'mount -t tmpfs -o noexec tmpfs /var/tmp',
    'mount -o remount,bind,ro /',
    'if touch /var/lib/x 2>/dev/null; then exit 99; fi',
    'mesh-agent version',
    'mesh-agent leave --local --yes',
  ];
  await machine.must('unshare', '--mount', 'sh', '-e', '-c', closed.join('\n'));
});

test('the units are what systemd understands, and as closed as the job allows', async () => {
  const units = ['mesh-agent', 'mesh-agent-restore', 'mesh-agent-hub'].map((name) => `${name}.service`);
  const paths = units.map((unit) => `/usr/lib/systemd/system/${unit}`);
  const { stderr } = await machine.run('systemd-analyze', 'verify', '--man=no', ...paths);
  assert.doesNotMatch(stderr, /mesh-agent/);
  const page = readFileSync(join(import.meta.dirname, '../../docs/install.md'), 'utf8');
  for (const name of ['mesh-agent', 'mesh-agent-restore', 'mesh-agent-hub']) {
    const shown = await machine.must('systemd-analyze', 'security', '--no-pager', `${name}.service`);
    const score = /exposure level for .*: ([0-9.]+)/.exec(shown)?.[1];
    assert.equal(new RegExp(`^\\| \`${name}\` \\| ([0-9.]+) \\|`, 'm').exec(page)?.[1], score, name);
  }
});

test('the unit is active and the machine is enforced', async () => {
  configure(machine, lab);
  machine.write('/etc/mesh-agent/policies.d/cross-cluster.yaml', CROSS_CLUSTER);
  await machine.must('systemctl', 'enable', '--now', 'mesh-agent');
  await untilEnforced();
  await assertReach(lab, EXPECTED);
  const unit = await machine.show('mesh-agent', 'ActiveState', 'SubState', 'StatusText', 'NRestarts');
  assert.deepEqual([unit.ActiveState, unit.SubState, unit.NRestarts], ['active', 'running', '0']);
  assert.match(unit.StatusText ?? '', /^enforcing; 1\/1 clusters ready/);
  assert.equal((await machine.run('systemctl', 'is-enabled', 'mesh-agent-restore')).stdout, 'enabled\n');
});

test('as a service it leads those of the mesh at the socket, across restarts of the unit', async () => {
  const { facts, pods } = lab.cluster('cluster-a');
  const backends = [...pods.values()].map(({ ipv4 }) => [ipv4, SERVICE_PORTS]);
  await facts.service({
    namespace: 'default',
    name: 'web',
    frontends: { [VIP]: SERVICE_PORTS },
    backends: Object.fromEntries(backends),
  });
  await until('it is led at the socket', async () => (await status())?.services?.led?.at === 'socket', 20_000);
  const connect = () => lab.machine.probe({ protocol: 'tcp', to: VIP, port: 80 });
  assert.equal(await connect(), 'pass');
  const before = machine.pins();
  assert.equal(before.filter((path) => /\/links\/link_/.test(path)).length, 9);
  await machine.must('systemctl', 'stop', 'mesh-agent');
  assert.equal(await connect(), 'pass');
  await machine.must('systemctl', 'start', 'mesh-agent');
  await untilEnforced();
  assert.equal((await status())?.services?.led?.at, 'socket');
  assert.equal(await connect(), 'pass');
  assert.deepEqual(machine.pins(), before);
});

test('as a service it may send echo requests, and its log is in the journal, where `logs` finds it', async () => {
  await machine.run('mesh-agent', 'health', '--probe');
  const { health = [], nodeHealth } = (await status()) ?? {};
  assert.deepEqual(
    health.filter(({ code }) => code === 'AGT-HEALTH'),
    [],
  );
  assert.equal(nodeHealth?.nodes, 1);
  assert.match(await machine.must('mesh-agent', 'logs'), / INFO {2}agent +mesh-agent starts version=/);
  const lines = (await machine.must('mesh-agent', 'logs', '--level', 'info', '-o', 'json')).trimEnd().split('\n');
  assert.ok(lines.some((line) => (JSON.parse(line) as { msg: string }).msg === 'mesh-agent starts'));
});

test('systemctl reload takes a configuration over, or fails and says why; the process stays', async () => {
  const { MainPID: before } = await machine.show('mesh-agent', 'MainPID');
  const file = '/etc/mesh-agent/conf.d/30-reload.yaml';
  machine.write(file, 'failsafe: {ingress: [tcp/80]}\n');
  await machine.must('systemctl', 'reload', 'mesh-agent');
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'world > my-vm': 'tcp' }, 0);
  machine.write(file, 'failsafe: {ingress: []}\naudit: perhaps\n');
  const { code } = await machine.run('systemctl', 'reload', 'mesh-agent');
  assert.notEqual(code, 0);
  assert.match(await machine.journal(), /30-reload\.yaml:2: .*audit/);
  await assertReach(lab, { 'world > my-vm': 'tcp' }, 0);
  machine.remove(file);
  await machine.must('systemctl', 'reload', 'mesh-agent');
  await assertReach(lab, EXPECTED, 0);
  const unit = await machine.show('mesh-agent', 'MainPID', 'ActiveState', 'SubState', 'StatusText');
  assert.deepEqual([unit.MainPID, unit.ActiveState, unit.SubState], [before, 'active', 'running']);
  assert.match(unit.StatusText ?? '', /^enforcing/);
});

test('an agent that is killed comes back, and nobody notices', async () => {
  const frontend = lab.cluster('cluster-a').place('frontend');
  const flow = await frontend.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  await machine.killAgent();
  const { sent, received } = await flow.stop();
  assert.ok(sent > 50, `${sent} sent`);
  assert.equal(received, sent);
  await assertReach(lab, EXPECTED);
});

test('an upgrade under traffic loses no packet and lets none in', async () => {
  machine.write('/etc/mesh-agent/config.yaml', '# of the operator\nlog: {level: debug}\n');
  const [frontend, batch] = ['frontend', 'batch'].map((name) => lab.cluster('cluster-a').place(name));
  assert.ok(frontend !== undefined && batch !== undefined);
  const allowed = await frontend.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  const forbidden = await batch.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  await machine.must('dpkg', '--force-confold', '-i', `/root/${basename(packages.next)}`);
  await until('the new version runs', async () => (await status())?.agent.version === NEXT_VERSION, 30_000);
  await untilEnforced();
  const [first, second] = await Promise.all([allowed.stop(), forbidden.stop()]);
  assert.ok(first.sent > 50, `${first.sent} sent`);
  assert.equal(first.received, first.sent);
  assert.equal(second.received, 0);
  assert.match(machine.read('/etc/mesh-agent/config.yaml'), /of the operator/);
});

test('a rollback to the version before is as quiet', async () => {
  const frontend = lab.cluster('cluster-a').place('frontend');
  const flow = await frontend.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  await machine.must('dpkg', '--force-confold', '-i', `/root/${basename(packages.first)}`);
  await until('the old version runs', async () => (await status())?.agent.version !== NEXT_VERSION, 30_000);
  await untilEnforced();
  const { sent, received } = await flow.stop();
  assert.equal(received, sent);
});

test('a boot with the store away has the rules before the network', async () => {
  await machine.watchBoots();
  await lab.cluster('cluster-a').door.shut();
  await machine.powerOff();
  await machine.boot();
  assert.match(machine.witnessed(), /chain entering/);
  assert.equal((await machine.show('mesh-agent-restore', 'Result')).Result, 'success');
  assert.match(machine.witnessed(), /link_connect4/);
  await until('the tunnels are back', async () => ((await status())?.routing.routes ?? 0) > 0, 30_000);
  assert.equal((await status())?.lastGood?.enforced, 'snapshot');
  await assertReach(lab, EXPECTED);
  await lab.cluster('cluster-a').door.open();
  await untilEnforced();
  await assertReach(lab, EXPECTED);
});

test('a removal takes everything of ours out of the kernel, a purge everything from the disk', async () => {
  const { namespace } = lab.machine;
  await machine.must('dpkg', '-r', 'mesh-agent');
  assert.equal(namespace.run('nft', 'list', 'ruleset').includes('mesh_agent'), false);
  assert.notEqual(namespace.try('ip', 'link', 'show', 'mesh_vxlan').code, 0);
  assert.equal(namespace.run('ip', 'route', 'show', 'proto', '77'), '');
  assert.deepEqual(machine.pins(), []);
  assert.equal(machine.has('/usr/bin/mesh-agent'), false);
  assert.equal(machine.has('/etc/mesh-agent/config.yaml'), true);
  await machine.must('dpkg', '-P', 'mesh-agent');
  const left = await machine.must('find', '/etc', '/usr', '/var/lib', '/run', '-xdev', '-name', '*mesh-agent*');
  assert.deepEqual(
    left.split('\n').filter((path) => path !== '' && !path.startsWith('/var/lib/dpkg')),
    [],
  );
});
