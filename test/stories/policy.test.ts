import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { KernelAddressRecord, KernelPolicyRecord, PolicyRecord } from '../../src/api/types.ts';
import { assertReach, PORTS } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, CROSS_CLUSTER, enforce, fromFrontendOf, policyFor, startStory } from '../lab/story.ts';

/** Policies across clusters, on real packets. */
let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B]);
});
after(() => lab?.close());

const OPEN = {
  'my-vm > cluster-a/frontend': 'all',
  'my-vm > cluster-a/batch': 'all',
  'my-vm > cluster-b/frontend': 'all',
  'my-vm > world': 'all',
} as const;

async function list<Row>(rows: AsyncIterable<Row>): Promise<Row[]> {
  const found: Row[] = [];
  for await (const row of rows) found.push(row);
  return found;
}

test('without a policy everything passes, in both directions and families', async () => {
  await assertReach(lab, {
    ...OPEN,
    'cluster-a/frontend > my-vm': 'all',
    'cluster-a/batch > my-vm': 'all',
    'cluster-b/frontend > my-vm': 'all',
    'world > my-vm': 'all',
  });
  const { policy } = await lab.agent.status();
  assert.deepEqual([policy.ingress, policy.egress], ['Disabled', 'Disabled']);
});

test('the policy across clusters lets in the one cluster alone', async () => {
  await enforce(lab, CROSS_CLUSTER);
  await assertReach(lab, {
    ...OPEN,
    'cluster-a/frontend > my-vm': 'all',
    'cluster-a/batch > my-vm': 'none',
    'cluster-b/frontend > my-vm': 'none',
    'world > my-vm': 'none',
  });
  const { policy } = await lab.agent.status();
  assert.deepEqual([policy.ingress, policy.egress, policy.selecting], ['Enabled', 'Disabled', 1]);
});

test('the failsafe port is open to everybody', async () => {
  await lab.machine.listen({ tcp: [22] });
  const to = lab.machine.ipv4;
  await until(
    'ssh is reachable',
    async () => (await lab.topology.world.probe({ protocol: 'tcp', to, port: 22 })) === 'pass',
  );
});

test('the kernel lists show what the kernel holds', async () => {
  const frontend = lab.cluster('cluster-a').place('frontend');
  const identity = (await lab.agent.api.ipcacheGet(frontend.ipv4)).identity;
  const rows: KernelAddressRecord[] = await list(lab.agent.api.kernelIpcache());
  const row = rows.find(({ prefix }) => prefix === `${frontend.ipv4}/32`);
  assert.equal(row?.identity, identity);
  assert.equal(row?.tunnelEndpoint, lab.cluster('cluster-a').node.place.ipv4);
  assert.ok(row?.labels.includes('k8s:app=frontend'));
  assert.ok(rows.some(({ prefix }) => prefix === `${frontend.ipv6}/128`));
  const table = lab.machine.namespace.run('nft', 'list', 'table', 'inet', 'mesh_agent');
  assert.ok(table.includes(`${frontend.ipv4} : 0x`), table);
  const policy: KernelPolicyRecord[] = await list(lab.agent.api.kernelPolicy());
  const allowed = policy.filter(({ direction, verdict }) => direction === 'ingress' && verdict === 'allow');
  assert.ok(
    allowed.some(({ identities }) => identities?.includes(identity)),
    JSON.stringify(policy),
  );
  const { stdout } = await lab.agent.run('bpf', 'ipcache', 'list');
  assert.match(stdout, new RegExp(`${frontend.ipv4}/32 +identity=${identity} .*tunnelendpoint=192\\.168\\.100\\.21`));
  assert.equal((await lab.agent.run('bpf', 'policy', 'list')).code, 0);
});

test('a connection that the changed policy forbids is cut, and one that it allows goes on', async () => {
  const both = policyFor('allow-cross-cluster', {
    ingress: [fromFrontendOf('cluster-a'), fromFrontendOf('cluster-b')],
  });
  await enforce(lab, both);
  const [a, b] = ['cluster-a', 'cluster-b'].map((name) => lab.cluster(name).place('frontend'));
  assert.ok(a !== undefined && b !== undefined);
  const stays = await a.open(lab.machine.ipv4, PORTS.tcp);
  const goes = await b.open(lab.machine.ipv4, PORTS.tcp);
  const goes6 = await b.open(lab.machine.ipv6, PORTS.tcp);
  await enforce(lab, CROSS_CLUSTER);
  await until('the forbidden connection is dead', async () => (await goes.check(300)) !== 'pass');
  await until('the forbidden IPv6 connection is dead', async () => (await goes6.check(300)) !== 'pass');
  assert.equal(await stays.check(3000), 'pass');
  await Promise.all([stays, goes, goes6].map((connection) => connection.close()));
});

test('ports, protocols and the way out', async () => {
  const spec = {
    ingress: [
      { ...fromFrontendOf('cluster-a'), toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }] },
      { ...fromFrontendOf('cluster-b'), toPorts: [{ ports: [{ port: '53', protocol: 'UDP' }] }] },
      {
        fromEntities: ['world'],
        icmps: [
          {
            fields: [
              { type: 8, family: 'IPv4' },
              { type: 128, family: 'IPv6' },
            ],
          },
        ],
      },
    ],
    egress: [{ toEndpoints: [{ matchLabels: { app: 'frontend', 'io.cilium.k8s.policy.cluster': 'cluster-b' } }] }],
  };
  await enforce(lab, policyFor('allow-cross-cluster', spec));
  await assertReach(lab, {
    'cluster-a/frontend > my-vm': 'tcp',
    'cluster-a/batch > my-vm': 'none',
    'cluster-b/frontend > my-vm': 'udp',
    'world > my-vm': 'icmp',
    'my-vm > cluster-a/frontend': 'none',
    'my-vm > cluster-b/frontend': 'all',
    'my-vm > world': 'none',
  });
  // Its own way to the store needs no policy.
  lab.cluster('cluster-a').door.cut();
  await lab.agent.untilReady();
});

test('a pod that changes its labels is judged by the new ones', async () => {
  await enforce(lab, CROSS_CLUSTER);
  await lab.cluster('cluster-a').relabel('batch', { app: 'frontend' });
  await assertReach(lab, { 'cluster-a/batch > my-vm': 'all' });
  await lab.cluster('cluster-a').relabel('batch', { app: 'batch' });
  await assertReach(lab, { 'cluster-a/batch > my-vm': 'none' });
});

test('a policy file that turns bad leaves the last good one in force, and says where the error is', async () => {
  lab.agent.policy('policy.yaml', CROSS_CLUSTER.replace('"ingress"', '"ingres"'));
  const problem = await lab.agent.untilHealth('AGT-POLICY');
  assert.match(`${problem.text} ${problem.place}`, /policy\.yaml/);
  assert.match(problem.text, /ingres/);
  const records: PolicyRecord[] = await list(lab.agent.api.policies());
  assert.equal(records.length, 1);
  assert.equal(records[0]?.state, 'last-good');
  await assertReach(lab, {
    'cluster-a/frontend > my-vm': 'all',
    'cluster-b/frontend > my-vm': 'none',
    'world > my-vm': 'none',
  });
  await enforce(lab, CROSS_CLUSTER);
  await lab.agent.untilStatus('nothing is said of it any more', ({ health }) =>
    health.every(({ code }) => code !== 'AGT-POLICY'),
  );
});

test('a foreign flush of all rules is healed, and counted', async () => {
  const { healed } = (await lab.agent.status()).datapath;
  lab.machine.namespace.run('nft', 'flush', 'ruleset');
  await lab.agent.untilStatus('the rules are back', ({ datapath }) => datapath.healed > healed && datapath.applied);
  await assertReach(lab, {
    'cluster-a/frontend > my-vm': 'all',
    'cluster-a/batch > my-vm': 'none',
    'world > my-vm': 'none',
    'my-vm > cluster-b/frontend': 'all',
  });
});

test('a policy that is removed opens what it closed', async () => {
  lab.agent.removePolicy('policy.yaml');
  await assertReach(lab, { 'world > my-vm': 'all', 'cluster-b/frontend > my-vm': 'all' });
  assert.equal((await lab.agent.status()).policy.ingress, 'Disabled');
});
