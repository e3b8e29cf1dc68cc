import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Fleet } from '../lab/hub-fleet.ts';
import type { PeerFacts } from '../lab/hub-peer.ts';
import { assertReach, type Expected, PORTS } from '../lab/matrix.ts';
import { CLUSTER_A } from '../lab/story.ts';

/** The only hub, or its etcd, is away, comes back, or comes back from a backup: nothing may vanish in between. */
const REACH: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'my-vm > cluster-a/frontend': 'all',
};
let fleet: Fleet;
let removedBefore = 0;

before(async () => {
  fleet = await Fleet.start({ clusters: [CLUSTER_A] });
  await fleet.apply('web', {
    endpointSelector: { matchLabels: { app: 'backend' } },
    ingress: [{ fromEndpoints: [{ matchLabels: { app: 'frontend' } }] }],
  });
  await assertReach(fleet, REACH);
  removedBefore = factsOf(fleet.peerOf('cluster-a').facts.removed).length;
});
after(() => fleet?.close());

/** Keys of nodes and addresses: locks of identities come and go. */
function factsOf(removed: readonly string[]): readonly string[] {
  return removed.filter((key) => !key.startsWith('identities/v1/locks/') && !key.startsWith('identities/v1/value/'));
}

function nothingVanished(): void {
  assert.deepEqual(factsOf(fleet.peerOf('cluster-a').facts.removed).slice(removedBefore), []);
}

const known = ({ ready, addresses }: PeerFacts): boolean => ready && addresses.length === 4;

/** Everybody is connected, complete and in force again. */
async function back(): Promise<void> {
  await fleet.hub.untilLeading();
  await fleet.agent.untilStatus(
    'everything is fine again',
    ({ state, registration, clusters, datapath }) =>
      state === 'ok' && registration.state === 'registered' && datapath.applied && clusters.every(({ ready }) => ready),
    40_000,
  );
  await fleet.peerOf('cluster-a').until('it is back', known, 40_000);
}

test('while the hub is away its machine enforces, says since when, and no cluster forgets it', async () => {
  const flow = await fleet
    .cluster('cluster-a')
    .place('frontend')
    .flow(fleet.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 20 });
  const began = Date.now();
  await fleet.hub.kill();
  const { kvstore, clusters } = await fleet.agent.untilStatus(
    'the hub is missed',
    ({ state, kvstore: store }) => state === 'degraded' && store.state !== 'connected',
  );
  assert.ok(kvstore.since >= began - 1000, 'since when');
  assert.ok(clusters.every(({ freshAt }) => freshAt !== undefined && freshAt > began - 60_000));
  const { code, stdout } = await fleet.agent.run('status');
  assert.equal(code, 4);
  assert.match(stdout, /they stay in force/);
  assert.equal((await fleet.hub.run('status')).code, 3);
  await assertReach(fleet, REACH);
  fleet.hub.start();
  await back();
  const { sent, received } = await flow.stop();
  assert.equal(received, sent);
  nothingVanished();
  await assertReach(fleet, REACH);
});

test('its etcd is killed alone: the hub brings it back with everything, and goes on', async () => {
  const { etcd } = await fleet.hub.status();
  process.kill(etcd.process?.pid ?? 0, 'SIGKILL');
  const status = await fleet.hub.untilStatus(
    'another etcd runs',
    (now) => now.etcd.process?.state === 'running' && now.etcd.process.pid !== etcd.process?.pid,
  );
  assert.equal(status.etcd.process?.starts, (etcd.process?.starts ?? 0) + 1);
  await back();
  nothingVanished();
  await fleet.hub.must('workload', 'set', 'my-vm', '--label', 'env=staging');
  await fleet
    .peerOf('cluster-a')
    .until(
      'it hears of changes',
      () => fleet.peerOf('cluster-a').address('192.168.100.10')?.labels.includes('k8s:env=staging') === true,
    );
  removedBefore = factsOf(fleet.peerOf('cluster-a').facts.removed).length;
});

test('its data are lost and restored from a backup: nothing vanishes, and what came after the backup is made good', async () => {
  const backup = join(fleet.folder, 'hub.tar');
  await fleet.hub.must('backup', backup);
  // After the backup: the machine has another identity, a policy is there, and another machine.
  await fleet.hub.must('workload', 'set', 'my-vm', '--label', 'env=lost');
  await fleet.agent.untilStatus('it is the new one', ({ machine }) => machine.labels.includes('k8s:env=lost'));
  await fleet.hub.kill();
  rmSync(join(fleet.hub.stateDir, 'hub/etcd'), { recursive: true });
  // An empty etcd would make everybody forget everything: it is refused.
  fleet.hub.start();
  await fleet.hub.untilEnded();
  assert.match(fleet.hub.log, /HUB-ETCD-DATA/);
  await fleet.hub.must('restore', backup, '--force');
  fleet.hub.start();
  await back();
  const { labels, identity, state } = await fleet.workload('my-vm');
  assert.deepEqual([labels.env, state], ['staging', 'registered']);
  const { machine } = await fleet.agent.untilStatus('it is what the backup says', (now) =>
    now.machine.labels.includes('k8s:env=staging'),
  );
  assert.equal(machine.identity, identity);
  await fleet
    .peerOf('cluster-a')
    .until(
      'it knows what the backup says',
      () => fleet.peerOf('cluster-a').address('192.168.100.10')?.labels.includes('k8s:env=staging') === true,
    );
  const vanished = factsOf(fleet.peerOf('cluster-a').facts.removed).slice(removedBefore);
  assert.deepEqual(
    vanished.filter((key) => !key.startsWith('identities/')),
    [],
  );
  await assertReach(fleet, REACH);
});
