import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertReach, type Expected } from '../lab/matrix.ts';
import { type MeshLab, WORKLOAD } from '../lab/mesh-lab.ts';
import { CLUSTER_A, CLUSTER_B, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/** How packets travel between machine and pods: in VXLAN, with identities that can be trusted, or natively. */
const EXPECTED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'cluster-b/frontend > my-vm': 'none',
  'world > my-vm': 'none',
  'my-vm > cluster-a/frontend': 'all',
  'my-vm > cluster-b/frontend': 'all',
  'my-vm > world': 'all',
};

async function withLab(routing: 'tunnel' | 'native', story: (lab: MeshLab) => Promise<void>): Promise<void> {
  const lab = await startStory([CLUSTER_A, CLUSTER_B], { routing, workload: WORKLOAD });
  try {
    await enforce(lab, CROSS_CLUSTER);
    await story(lab);
  } finally {
    await lab.close();
  }
}

test('the overlay carries both families both ways, and claims no identity but the own one', async () => {
  await withLab('tunnel', async (lab) => {
    await assertReach(lab, EXPECTED);
    const { machine, routing } = await lab.agent.status();
    assert.equal(routing.mode, 'tunnel');
    assert.equal(routing.device, 'mesh_vxlan');
    for (const name of ['cluster-a', 'cluster-b'])
      assert.deepEqual(lab.cluster(name).node.seenIdentities(), [machine.identity], name);
    const routes = lab.machine.namespace.run('ip', '-d', 'route', 'show', 'proto', '77');
    assert.match(
      routes,
      new RegExp(`10\\.244\\.1\\.0/24 .*encap ip id ${machine.identity} .*dst 192\\.168\\.100\\.21`),
    );
    await ownRangeIsReached(lab);
    await forgedIdentityIsDropped(lab);
  });
});

/** The range that the cluster gave the machine: its first address is the machine's, and policy holds there too. */
async function ownRangeIsReached(lab: MeshLab): Promise<void> {
  const { node } = lab.cluster('cluster-a');
  node.meet(lab.machine, ['10.192.1.0/24']);
  const to = { protocol: 'tcp', to: '10.192.1.1', port: 80 } as const;
  assert.equal(
    await lab
      .cluster('cluster-a')
      .place('frontend')
      .probe({ ...to, timeoutMs: 3000 }),
    'pass',
  );
  assert.equal(await lab.cluster('cluster-a').place('batch').probe(to), 'blocked');
}

/** A host that is no node sends VXLAN that claims to come from the frontend. */
async function forgedIdentityIsDropped(lab: MeshLab): Promise<void> {
  const { world } = lab.topology;
  const { ipv4 } = lab.machine;
  const frontend = (await lab.agent.api.ipcacheGet(lab.cluster('cluster-a').place('frontend').ipv4)).identity;
  world.namespace.run('ip', 'link', 'add', 'forge', 'type', 'vxlan', 'external', 'dstport', '8472', 'nolearning');
  world.namespace.run('ip', 'link', 'set', 'forge', 'arp', 'off', 'mtu', '1400', 'up');
  // Only what it sends goes through the tunnel; answers would come the plain way.
  const encap = ['encap', 'ip', 'id', String(frontend), 'dst', ipv4, 'dev', 'forge', 'table', '99'];
  world.namespace.run('ip', 'route', 'add', `${ipv4}/32`, ...encap);
  world.namespace.run('ip', 'route', 'add', ipv4, 'via', '203.0.113.1', 'table', '98');
  world.namespace.run('ip', 'rule', 'add', 'pref', '50', 'ipproto', 'udp', 'dport', '8472', 'lookup', '98');
  world.namespace.run('ip', 'rule', 'add', 'pref', '100', 'to', ipv4, 'lookup', '99');
  const denied = (): number => {
    const text = lab.machine.namespace.run('nft', 'list', 'counter', 'inet', 'mesh_agent', 'stranger_in');
    return Number(/packets (\d+)/.exec(text)?.[1]);
  };
  const before = denied();
  assert.equal(await world.probe({ protocol: 'udp', to: ipv4, port: 53 }), 'blocked');
  assert.ok(denied() > before, 'the packets came, and were counted as denied');
}

test('with native routing nothing is encapsulated, and policy goes by the address', async () => {
  await withLab('native', async (lab) => {
    await assertReach(lab, EXPECTED);
    assert.equal((await lab.agent.status()).routing.mode, 'native');
    assert.doesNotMatch(lab.machine.namespace.run('ip', 'link'), /mesh_vxlan/);
    assert.equal(lab.machine.namespace.run('ip', 'route', 'show', 'proto', '77').trim(), '');
  });
});
