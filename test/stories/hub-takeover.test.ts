import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { hubFolder } from '../../src/hub/folder.ts';
import type { WorkloadRecord } from '../../src/hub/workloads/records.ts';
import { openAuthority } from '../../src/pki/authority.ts';
import { generateKey, privateKeyPem } from '../../src/pki/keys.ts';
import { Etcd } from '../lab/etcd.ts';
import { Fleet } from '../lab/hub-fleet.ts';
import type { HubHost } from '../lab/hub-host.ts';
import { HubPeer } from '../lab/hub-peer.ts';
import { assertReach, PORTS, serveEverywhere } from '../lab/matrix.ts';
import { until } from '../lab/namespace.ts';
import type { CertificateFiles } from '../lab/pki.ts';
import { CLUSTER_A } from '../lab/story.ts';

/** Two hubs on an etcd that is there: the one that leads dies, and nobody notices but by `hub status`. */
const TAKEOVER_MS = 15_000;
const ETCD = '192.168.100.9';
let fleet: Fleet;
let other: HubHost;
let etcd: Etcd;
let peer: HubPeer;

before(async () => {
  fleet = new Fleet();
  const { hub, topology, folder } = fleet;
  await hub.init('--etcd-endpoints', `https://${ETCD}:2379`);
  const { namespace } = topology.host('etcd', 9);
  etcd = await Etcd.start({ namespace, address: ETCD, tls: etcdFiles(hub, folder) });
  hub.start();
  await hub.untilLeading();
  other = fleet.addHub();
  const backup = join(folder, 'hub.tar');
  await hub.must('backup', backup);
  await other.must('restore', backup);
  const { config } = hubFolder(other.stateDir);
  writeFileSync(config, readFileSync(config, 'utf8').replaceAll(hub.place.ipv4, other.place.ipv4));
  other.start();
  await other.untilStatus('it stands by', ({ leader, store }) => leader?.here === false && store.state === 'connected');
  const cluster = await fleet.add(CLUSTER_A);
  await fleet.connect('cluster-a');
  const files = join(folder, 'peer');
  await hub.must('cluster', 'export', 'cluster-a', '--dir', files);
  const reader = join(files, 'vms');
  const both = `- https://${hub.place.ipv4}:2379\n  - https://${other.place.ipv4}:2379`;
  writeFileSync(reader, readFileSync(reader, 'utf8').replace(`- https://${hub.place.ipv4}:2379`, both));
  peer = await HubPeer.start({ node: cluster.node, cluster: { name: 'cluster-a', id: 1 }, config: reader, hub: 'vms' });
  fleet.peers.set('cluster-a', peer);
  await fleet.create('my-vm');
  await fleet.join('my-vm');
  await serveEverywhere(fleet);
  await peer.until('it knows the machine', ({ addresses }) => addresses.length === 4);
});
after(async () => {
  await fleet?.close();
  await etcd?.close();
});

/** What an etcd that an operator runs for the hubs must show. */
function etcdFiles(hub: HubHost, folder: string): { server: CertificateFiles; admin: CertificateFiles } {
  const { internal, admin } = hubFolder(hub.stateDir);
  const authority = openAuthority({
    certificate: readFileSync(internal.cert, 'utf8'),
    key: readFileSync(internal.key, 'utf8'),
  });
  const key = generateKey();
  const files = { ca: internal.cert, cert: join(folder, 'etcd.crt'), key: join(folder, 'etcd.key') };
  const request = { commonName: 'etcd', names: [ETCD], publicKey: key, seconds: 86_400, client: true };
  writeFileSync(files.cert, authority.issueServer(request).pem);
  writeFileSync(files.key, privateKeyPem(key), { mode: 0o600 });
  return { server: files, admin: { ca: internal.cert, cert: admin.cert, key: admin.key } };
}

function nothingVanished(): void {
  const facts = peer.facts.removed.filter((key) => key.startsWith('ip/') || key.startsWith('nodes/'));
  assert.deepEqual(facts, []);
}

test('the machine was told both hubs', async () => {
  const { kvstore } = await fleet.agent.status();
  assert.deepEqual(
    [...kvstore.endpoints].sort(),
    [fleet.hub, other].map(({ place }) => `https://${place.ipv4}:2379`),
  );
});

test('the leader is killed: the other one leads in time, nothing vanishes at a peer, and machines stay enforced', async () => {
  const flow = await fleet
    .cluster('cluster-a')
    .place('frontend')
    .flow(fleet.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 20 });
  const began = performance.now();
  await fleet.hub.kill();
  await other.untilLeading();
  const took = performance.now() - began;
  assert.ok(took < TAKEOVER_MS, `${took} ms`);
  await fleet.agent.untilStatus(
    'it is at the other hub',
    ({ state, kvstore }) => state === 'ok' && kvstore.state === 'connected',
  );
  await peer.until('it is at the other hub', ({ ready, addresses }) => ready && addresses.length === 4);
  const { sent, received } = await flow.stop();
  assert.equal(received, sent);
  nothingVanished();
});

test('the new leader goes on where the old one stopped: with labels of workloads and with clusters', async () => {
  await other.must('workload', 'set', 'my-vm', '--label', 'env=staging');
  await peer.until('it hears of changes', () => {
    const labels = peer.address('192.168.100.10')?.labels;
    return labels?.includes('k8s:env=staging') === true;
  });
  await until('hub and peer agree on who it is', async () => {
    const { identity, state } = await other.ask<WorkloadRecord>('/v1/workloads/my-vm');
    return state === 'registered' && peer.address('192.168.100.10')?.identity === identity;
  });
  await fleet.cluster('cluster-a').relabel('batch', { app: 'changed' });
  await fleet.agent.untilStatus('it hears of the cluster', ({ counts }) => counts.identities >= 4);
  await assertReach(fleet, { 'cluster-a/batch > my-vm': 'all', 'my-vm > cluster-a/batch': 'all' });
  nothingVanished();
});

test('the first hub comes back beside it, and takes over at once when the other one is stopped', async () => {
  fleet.hub.start();
  await fleet.hub.untilStatus('it stands by', ({ leader }) => leader?.here === false);
  const began = performance.now();
  await other.stop();
  await fleet.hub.untilLeading();
  assert.ok(performance.now() - began < TAKEOVER_MS);
  await peer.until('it is back', ({ ready, addresses }) => ready && addresses.length === 4);
  await fleet.agent.untilStatus('it is back', ({ state }) => state === 'ok');
  nothingVanished();
});
