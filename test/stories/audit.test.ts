import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { assertReach } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/** In audit, verdicts are reported and not applied. */
let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A], { config: { audit: true } });
});
after(() => lab?.close());

test('in audit the forbidden passes, is counted, and status leaves no doubt', async () => {
  await enforce(lab, CROSS_CLUSTER);
  await assertReach(lab, {
    'cluster-a/frontend > my-vm': 'all',
    'cluster-a/batch > my-vm': 'all',
    'world > my-vm': 'all',
    'my-vm > world': 'all',
  });
  const { policy } = await lab.agent.untilStatus(
    'the denials are counted',
    ({ datapath }) => datapath.denied.ingress.packets > 0,
  );
  assert.equal(policy.audit, true);
  assert.match(policy.ingress, /Audit/);
});
