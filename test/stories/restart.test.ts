import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { after, before, test } from 'node:test';
import { assertReach, type Expected, PORTS } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { endProcess, until } from '../lab/namespace.ts';
import type { Flow } from '../lab/place.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/** The agent goes, by whatever way, and comes back: the kernel goes on as if nothing were. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'world > my-vm': 'none',
  'my-vm > cluster-a/batch': 'all',
};

let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A]);
  await enforce(lab, CROSS_CLUSTER);
  await assertReach(lab, EXPECTED);
});
after(() => lab?.close());

/** Everything of ours in the kernel, without counters. */
function kernel(): string {
  const { namespace } = lab.machine;
  const rules = namespace.run('nft', '-a', '-s', 'list', 'table', 'inet', 'mesh_agent');
  const routes = ['-4', '-6'].map((family) => namespace.run('ip', family, 'route', 'show', 'proto', '77')).join('');
  const device = namespace.run('ip', '-d', 'link', 'show', 'mesh_vxlan');
  // The one map that packets write to.
  return [rules.replace(/(map kept \{[^}]*?)elements = \{[^}]*\}/, '$1'), routes, device].join('\n');
}

interface Traffic {
  readonly allowed: Flow;
  readonly lasting: Flow;
  readonly forbidden: Flow;
  readonly changes: { readonly child: ChildProcess; text: string };
}

/** Allowed and forbidden traffic, and a witness of every change of the packet filter. */
async function startTraffic(): Promise<Traffic> {
  const { ipv4 } = lab.machine;
  const [frontend, batch] = ['frontend', 'batch'].map((name) => lab.cluster('cluster-a').place(name));
  assert.ok(frontend !== undefined && batch !== undefined);
  const child = lab.machine.namespace.start('nft', ['monitor']);
  const changes = { child, text: '' };
  child.stdout?.on('data', (data: Buffer) => {
    changes.text += data.toString();
  });
  const [allowed, lasting, forbidden] = await Promise.all([
    frontend.flow(ipv4, PORTS.udp, { fresh: true, everyMs: 5 }),
    frontend.flow(ipv4, PORTS.udp, { everyMs: 5 }),
    batch.flow(ipv4, PORTS.udp, { fresh: true, everyMs: 5 }),
  ]);
  return { allowed, lasting, forbidden, changes };
}

async function assertUndisturbed({ allowed, lasting, forbidden, changes }: Traffic): Promise<void> {
  const [first, second, third] = await Promise.all([allowed.stop(), lasting.stop(), forbidden.stop()]);
  await endProcess(changes.child);
  assert.ok(first.sent > 100, `${first.sent} sent`);
  assert.equal(first.received, first.sent, 'of new connections that are allowed');
  assert.equal(second.received, second.sent, 'of a connection that stays');
  assert.equal(third.received, 0, 'of connections that are forbidden');
  assert.equal(changes.text, '', 'changes of the packet filter');
}

for (const [how, end] of [
  ['SIGTERM', () => lab.agent.stop()],
  ['SIGKILL', () => lab.agent.kill()],
] as const) {
  test(`an agent that ends by ${how} leaves the rules, and the next one changes nothing and loses no packet`, async () => {
    const before = kernel();
    const traffic = await startTraffic();
    await end();
    assert.equal(lab.agent.running, false);
    await assertReach(lab, EXPECTED);
    assert.equal(kernel(), before);
    lab.agent.start();
    await lab.agent.untilReady();
    // A reconnecting agent may find out late that something differs: let it look once more.
    const { appliedAt } = (await lab.agent.status()).datapath;
    assert.ok(appliedAt !== undefined);
    await assertUndisturbed(traffic);
    assert.equal(kernel(), before);
    await assertReach(lab, EXPECTED);
  });
}

test('an agent that is killed again and again, wherever it is on its way up, disturbs nothing', async () => {
  const before = kernel();
  const traffic = await startTraffic();
  for (const ms of [150, 300, 450, 600, 750, 900, 1100, 1400]) {
    await lab.agent.kill();
    lab.agent.start();
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
  await lab.agent.kill();
  lab.agent.start();
  await lab.agent.untilReady();
  await assertUndisturbed(traffic);
  assert.equal(kernel(), before);
});

test('what changed while no agent ran is in force when one runs again', async () => {
  await lab.agent.kill();
  await lab.cluster('cluster-a').relabel('frontend', { app: 'retired' });
  await lab.cluster('cluster-a').relabel('batch', { app: 'frontend' });
  // Nobody is there to see it: the old rules know the addresses by their old identities.
  lab.agent.start();
  await lab.agent.untilReady();
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'none', 'cluster-a/batch > my-vm': 'all' });
  await lab.cluster('cluster-a').relabel('batch', { app: 'batch' });
  await lab.cluster('cluster-a').relabel('frontend', { app: 'frontend' });
  await assertReach(lab, EXPECTED);
});

test('an agent that starts while its store is away keeps the rules that it finds, and says what it waits for', async () => {
  const { door } = lab.cluster('cluster-a');
  await lab.agent.kill();
  await door.shut();
  const before = kernel();
  lab.agent.start();
  await lab.agent.untilHealth('KVS-REFUSED');
  const status = await lab.agent.status();
  assert.notEqual(status.registration.waitingFor, undefined);
  assert.equal(kernel(), before);
  await assertReach(lab, EXPECTED);
  await door.open();
  await lab.agent.untilReady();
  await assertReach(lab, EXPECTED);
});

test('a second agent beside the first is refused, and the first goes on', async () => {
  const { code, stderr } = await lab.agent.run('run');
  assert.equal(code, 1, stderr);
  assert.match(stderr, /API-BUSY/);
  await until('the first answers', async () => (await lab.agent.status()).agent.pid > 0);
  await assertReach(lab, EXPECTED);
});
