import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Fleet } from '../lab/hub-fleet.ts';
import { assertReach } from '../lab/matrix.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B } from '../lab/story.ts';

/** What comes to an end: certificates, clusters, pools and policies. Room for two workloads; certificates of seconds. */
const HURRY = { certificateSeconds: 20, graceMs: 1500 };
const NAME = 'CiliumNetworkPolicy/production/web';
const WEB = {
  endpointSelector: { matchLabels: { app: 'backend' } },
  ingress: [{ fromEndpoints: [{ matchLabels: { app: 'frontend' } }] }],
};
let fleet: Fleet;

before(async () => {
  fleet = await Fleet.start({ clusters: [CLUSTER_A, CLUSTER_B], hub: { hurry: HURRY, pool: '10.192.0.0/29' } });
  await fleet.apply('web', WEB);
  await assertReach(fleet, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
});
after(() => fleet?.close());

/** Nobody reaches the hub for enrolment any more, and is told so at once. */
function blockRenewal(): void {
  const rules = `
    table inet block {
      chain arrive {
        type filter hook input priority 0;
        tcp dport 8443 reject with tcp reset;
      }
    }`;
  fleet.hub.place.namespace.feed(rules, 'nft', '-f', '-');
}

function openRenewal(): void {
  fleet.hub.place.namespace.run('nft', 'delete', 'table', 'inet', 'block');
}

test('a certificate that cannot be renewed is told with its end, and all is well when the hub can be reached again', async () => {
  blockRenewal();
  const trouble = await fleet.agent.untilHealth('JOIN-RENEWAL', 'certificate');
  assert.match(trouble.text, /it ends on .* and was not renewed: .*(refused|reached)/i);
  assert.match(trouble.remedy, /check the path to the hub/);
  openRenewal();
  await fleet.agent.untilStatus(
    'it is renewed',
    ({ certificate, health }) => (certificate?.renewals ?? 0) > 0 && health.length === 0,
  );
});

test('a certificate that expired cuts the machine off, which stays closed and known, and joins again', async () => {
  blockRenewal();
  const trouble = await fleet.agent
    .untilStatus('it is expired', ({ health }) => health.some(({ code }) => code === 'JOIN-EXPIRED'), 60_000)
    .then(({ health }) => health.find(({ code }) => code === 'JOIN-EXPIRED'));
  assert.match(trouble?.text ?? '', /it ended on/);
  assert.match(trouble?.remedy ?? '', /join --force/);
  const status = await fleet.agent.untilStatus('it is cut off', ({ kvstore }) => kvstore.state !== 'connected');
  assert.equal(status.state, 'degraded');
  assert.equal((await fleet.agent.run('status')).code, 4);
  await assertReach(fleet, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
  openRenewal();
  const joined = await fleet.agent.runThere('join', '--force', '--token', await fleet.token('my-vm'));
  assert.equal(joined.code, 0, joined.stderr);
  await fleet.agent.untilStatus(
    'it is well',
    ({ state, kvstore }) => state === 'ok' && kvstore.state === 'connected',
    40_000,
  );
  const vanished = fleet.peerOf('cluster-a').facts.removed.filter((key) => !key.startsWith('identities/'));
  assert.deepEqual(vanished, []);
});

test('a cluster that is disconnected is forgotten by hub and machine after its grace', async () => {
  const { ipv4 } = fleet.cluster('cluster-b').place('frontend');
  assert.equal(await fleet.knows('my-vm', ipv4), true);
  await assertReach(fleet, { 'cluster-b/frontend > my-vm': 'all' });
  await fleet.hub.must('cluster', 'disconnect', 'cluster-b');
  await until('the machine forgot it', async () => !(await fleet.knows('my-vm', ipv4)), 20_000);
  const cached = fleet.hub.etcdctl('get', '--prefix', '--keys-only', 'cilium/cache/');
  assert.doesNotMatch(cached, /cluster-b/);
  assert.match(cached, /cluster-a/);
  await assertReach(fleet, { 'cluster-b/frontend > my-vm': 'none', 'cluster-a/frontend > my-vm': 'all' });
  await fleet.connect('cluster-b');
  await assertReach(fleet, { 'cluster-b/frontend > my-vm': 'all' }, 10_000);
});

test('a pool that is exhausted is told, with the remedy, and another workload finds room when one is deleted', async () => {
  await fleet.create('second');
  const { code, stderr } = await fleet.hub.run('workload', 'create', 'third');
  assert.equal(code, 1);
  assert.match(stderr, /HUB-POOL/);
  assert.match(stderr, /10\.192\.0\.0\/29/);
  assert.match(stderr, /add a pool to `pools` in hub\.yaml, or delete workloads/);
  await fleet.hub.must('workload', 'delete', 'second');
  assert.match(await fleet.create('third'), /10\.192\.0\.4\/30/);
});

test('a policy that is no good is refused with its place, and what was in force stays', async () => {
  const { policy } = await fleet.agent.status();
  const file = join(fleet.folder, 'bad.yaml');
  writeFileSync(
    file,
    'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspec: {ingres: []}\n',
  );
  const { code, stdout, stderr } = await fleet.hub.run('policy', 'apply', '-f', file);
  assert.equal(code, 1);
  assert.match(stdout + stderr, /bad\.yaml:4/);
  assert.match(stdout + stderr, /Nothing was changed/);
  assert.equal((await fleet.agent.status()).policy.revision, policy.revision);
});

test('a policy that turned bad in the store keeps its last good form on the machine, and is told', async () => {
  const [document] = (await fleet.hub.json<{ items: { document: string }[] }>('policy', 'list')).items;
  fleet.hub.etcdctl('put', `mesh-agent/v1/policies/${document?.document}`, '{"kind": "Nonsense"');
  const { text } = await fleet.agent.untilHealth('AGT-POLICY');
  assert.match(text, /last-good/);
  await assertReach(fleet, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
  await fleet.apply('web', WEB);
  await fleet.agent.untilStatus('it is good again', ({ health }) => health.length === 0);
});

test('a policy that is deleted at the hub is gone from the machine', async () => {
  await fleet.hub.must('policy', 'delete', NAME);
  await fleet.agent.untilStatus(
    'no policy is left',
    ({ policy, datapath }) => policy.policies === 0 && datapath.applied,
  );
  await assertReach(fleet, { 'cluster-a/batch > my-vm': 'all', 'world > my-vm': 'all' });
  assert.equal((await fleet.hub.run('policy', 'delete', NAME)).code, 1);
});
