import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { AuditRecord } from '../../src/api/enrolment.ts';
import { Fleet } from '../lab/hub-fleet.ts';
import { assertReach } from '../lab/matrix.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A } from '../lab/story.ts';

/** A machine is stolen: what it loses at once, what it is told, and how it comes back. */
let fleet: Fleet;

before(async () => {
  fleet = await Fleet.start({ clusters: [CLUSTER_A] });
  await fleet.apply('web', {
    endpointSelector: { matchLabels: { app: 'backend' } },
    ingress: [{ fromEndpoints: [{ matchLabels: { app: 'frontend' } }] }],
  });
  await assertReach(fleet, {
    'cluster-a/frontend > my-vm': 'all',
    'cluster-a/batch > my-vm': 'none',
    'my-vm > cluster-a/frontend': 'all',
  });
});
after(() => fleet?.close());

test('a revoked machine is no member of the mesh any more: its facts go, and nobody sends it anything over the mesh', async () => {
  await fleet.hub.must('workload', 'revoke', 'my-vm');
  await fleet
    .peerOf('cluster-a')
    .until('it forgot the machine', ({ nodes, addresses }) => nodes.length + addresses.length === 0);
  assert.equal(fleet.peerOf('cluster-a').facts.ready, true);
  await until('the hub shows it as revoked', async () => (await fleet.workload('my-vm')).state === 'revoked');
  // What leaves the overlay carries the node's address: nobody that the policy knows.
  await assertReach(fleet, { 'cluster-a/frontend > my-vm': 'none', 'world > my-vm': 'none' });
  const { items } = await fleet.hub.json<{ items: AuditRecord[] }>('audit');
  const events = new Set(items.map(({ event }) => event));
  for (const event of ['token-created', 'joined', 'registered', 'revoked', 'withdrawn'] as const)
    assert.ok(events.has(event), event);
  const serialOf = (kind: string): string | undefined =>
    items.find(({ event, workload }) => event === kind && workload === 'my-vm')?.serial;
  assert.equal(serialOf('registered'), serialOf('joined'));
});

test('the machine says so with the remedy, stays closed, and neither reads nor registers', async () => {
  const { remedy } = await fleet.agent.untilHealth('JOIN-REVOKED', 'certificate');
  assert.match(remedy, /join --force/);
  await fleet.agent.untilHealth('KVS-AUTH');
  const { code, stdout } = await fleet.agent.run('status');
  assert.equal(code, 4);
  assert.match(stdout, /JOIN-REVOKED/);
  const before_ = (await fleet.agent.status()).policy.revision;
  await fleet.apply('web', {
    endpointSelector: { matchLabels: { app: 'backend' } },
    ingress: [{ fromEndpoints: [{}] }],
  });
  await fleet.create('other');
  await fleet.join('other');
  const status = await fleet.agent.status();
  assert.equal(status.policy.revision, before_, 'policies of the hub are not for it any more');
  assert.equal(await fleet.knows('other', '192.168.100.11'), true);
  assert.equal(await fleet.knows('my-vm', '192.168.100.11'), false);
  assert.equal((await fleet.workload('my-vm')).state, 'revoked');
});

test('with a new token the machine is back, under its name and with a new certificate', async () => {
  const old = (await fleet.agent.status()).certificate?.serial;
  const joined = await fleet.agent.runThere('join', '--force', '--token', await fleet.token('my-vm'));
  assert.equal(joined.code, 0, joined.stderr);
  const status = await fleet.agent.untilStatus(
    'it is joined again',
    ({ certificate, health, kvstore, registration }) =>
      certificate?.serial !== old &&
      health.length === 0 &&
      kvstore.state === 'connected' &&
      registration.state === 'registered',
    30_000,
  );
  assert.equal(status.machine.identity, (await fleet.workload('my-vm')).identity);
  await fleet
    .peerOf('cluster-a')
    .until('it knows the machine again', () => fleet.peerOf('cluster-a').address('192.168.100.10') !== undefined);
  await assertReach(fleet, { 'cluster-a/frontend > my-vm': 'all', 'my-vm > cluster-a/frontend': 'all' }, 10_000);
});
