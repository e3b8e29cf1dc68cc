import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
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

/** `datapath: bpf` within the confines of the unit, under a real systemd. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'world > my-vm': 'none',
};

let lab: MeshLab;
let machine: SystemdMachine;
let folder: string;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-packages-'));
  const file = await buildPackage('deb', folder);
  lab = await MeshLab.start([CLUSTER_A]);
  await serveEverywhere(lab);
  machine = new SystemdMachine(lab.machine.namespace, join(folder, 'machine'));
  machine.copy(file, `/root/${basename(file)}`);
  await machine.boot();
  await machine.must('dpkg', '-i', `/root/${basename(file)}`);
  configure(machine, lab);
  machine.write('/etc/mesh-agent/conf.d/40-bpf.yaml', 'datapath: bpf\n');
  machine.write('/etc/mesh-agent/policies.d/cross-cluster.yaml', CROSS_CLUSTER);
});
after(async () => {
  await machine?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

const policyPins = (): string[] => machine.pins().filter((path) => path.includes('/policy-'));

test('the unit enforces with eBPF, and without a table of the packet filter', async () => {
  await machine.must('systemctl', 'enable', '--now', 'mesh-agent');
  await machine.untilEnforced();
  assert.equal((await machine.status())?.datapath.name, 'bpf');
  assert.notEqual((await machine.run('nft', 'list', 'table', 'inet', 'mesh_agent')).code, 0);
  assert.ok(policyPins().some((path) => path.includes('/policy-links/')));
  await assertReach(lab, EXPECTED);
});

test('an agent that is killed comes back, and nobody notices', async () => {
  const before = policyPins();
  const frontend = lab.cluster('cluster-a').place('frontend');
  const flow = await frontend.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  const { MainPID: killed } = await machine.show('mesh-agent', 'MainPID');
  await machine.must('systemctl', 'kill', '--signal=KILL', '--kill-whom=main', 'mesh-agent');
  await until(
    'another one runs',
    async () => {
      const { MainPID, ActiveState } = await machine.show('mesh-agent', 'MainPID', 'ActiveState');
      return ActiveState === 'active' && MainPID !== killed;
    },
    30_000,
  );
  await machine.untilEnforced();
  const { sent, received } = await flow.stop();
  assert.deepEqual([received, sent > 50], [sent, true]);
  assert.deepEqual(policyPins(), before);
  await assertReach(lab, EXPECTED);
});

test('the unit that restores takes the snapshot to the devices that are there', async () => {
  await machine.must('systemctl', 'stop', 'mesh-agent');
  await machine.must('mesh-agent', 'restore', '--force');
  await machine.must('systemctl', 'restart', 'mesh-agent-restore');
  await assertReach(lab, EXPECTED);
});

test('a removal of the package leaves nothing of it', async () => {
  await machine.must('dpkg', '-r', 'mesh-agent');
  assert.deepEqual(policyPins(), []);
});
