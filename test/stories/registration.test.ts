import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { assertReach } from '../lab/matrix.ts';
import { type MeshLab, WORKLOAD } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { enforce, fromFrontendOf, policyFor, startStory } from '../lab/story.ts';
import type { Registration } from '../lab/workload.ts';

/** A registration heals itself, and follows what changes on either side, in one run of the agent. */
const KEY = 'cilium/state/noderegister/v1/my-vm';

let lab: MeshLab;
let pid: number;

before(async () => {
  lab = await startStory();
  await enforce(lab, policyFor('web', { ingress: [fromFrontendOf('cluster-a')] }));
  pid = lab.agent.pid;
});
after(() => lab?.close());

async function stored(): Promise<Registration | undefined> {
  const text = await lab.cluster('cluster-a').facts.store.get(KEY);
  return text === undefined ? undefined : (JSON.parse(text) as Registration);
}

/** The key stands complete in the store. */
const registered = (what: string): Promise<void> =>
  until(`registered again ${what}`, async () => ((await stored())?.IPAddresses ?? []).length > 0, 20_000);

test('a lease that ran out is noticed, and the machine registers again', async () => {
  const { store } = lab.cluster('cluster-a').facts;
  const { registrations } = (await lab.agent.status()).registration;
  const found = (await store.list(KEY))[0];
  assert.ok(found !== undefined);
  await store.revoke(found.lease);
  await registered('after the lease ran out');
  await lab.agent.untilStatus(
    'status counts another registration',
    ({ registration }) => registration.state === 'registered' && registration.registrations > registrations,
  );
  assert.equal(lab.agent.pid, pid);
});

test('a key that somebody deletes is written again', async () => {
  await lab.cluster('cluster-a').facts.store.remove(KEY);
  await registered('after the key was deleted');
});

test('a store that lost its data gets the registration again, and rules stay meanwhile', async () => {
  const cluster = lab.cluster('cluster-a');
  cluster.facts.silence();
  await cluster.etcd.reset();
  // The store is up and empty: nothing of it may be believed.
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
  await cluster.allowUsers();
  await cluster.facts.publish();
  await registered('after the data were lost');
  await lab.agent.untilReady();
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
  assert.equal(lab.agent.pid, pid);
});

test('labels that the administrator changes lead to another identity, and policy follows', async () => {
  const { workloads } = lab.cluster('cluster-a');
  const before = (await lab.agent.status()).machine.identity;
  await workloads.apply({ ...WORKLOAD, labels: { ...WORKLOAD.labels, app: 'database' } });
  const changed = await lab.agent.untilStatus('the new labels are adopted', ({ machine }) =>
    machine.labels.includes('k8s:app=database'),
  );
  assert.notEqual(changed.machine.identity, before);
  // The policy selects app=backend: it has nothing to say on this machine any more.
  await assertReach(lab, { 'cluster-a/batch > my-vm': 'all' });
  await workloads.apply(WORKLOAD);
  await lab.agent.untilStatus('the old labels are back', ({ machine }) => machine.labels.includes('k8s:app=backend'));
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
  assert.equal(lab.agent.pid, pid);
});

test('another address of the machine is told to the cluster', async () => {
  const { namespace } = lab.machine;
  namespace.run('ip', 'address', 'delete', '192.168.100.10/24', 'dev', 'eth0');
  namespace.run('ip', 'address', 'add', '192.168.100.77/24', 'dev', 'eth0');
  namespace.run('ip', 'route', 'replace', 'default', 'via', '192.168.100.1');
  const told = async (): Promise<boolean> =>
    ((await stored())?.IPAddresses ?? []).some(({ IP }) => IP === '192.168.100.77');
  await until('the new address is registered', told, 20_000);
  await until(
    'the cluster publishes the new address',
    async () =>
      (await lab.cluster('cluster-a').facts.store.get('cilium/state/ip/v1/default/192.168.100.77')) !== undefined,
  );
  assert.equal((await lab.agent.status()).machine.ipv4, '192.168.100.77');
  assert.equal(lab.agent.pid, pid);
});
