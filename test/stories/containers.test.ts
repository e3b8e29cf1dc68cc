import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { containerOn } from '../lab/container.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import type { Outcome, Place } from '../lab/place.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';

/**
 * A container behind a bridge of the machine, with a published port, as Docker makes them: a DNAT rule in `prerouting`,
 * which a packet filter on the input chain never sees. It is part of the machine: what reaches it from outside, and what it
 * sends there, is judged like the machine's own traffic. What stays inside is not.
 */
const FOREIGN_RULES = `
table ip docker {
  chain published {
    type nat hook prerouting priority -100;
    tcp dport 8080 dnat to 172.17.0.2:80
    udp dport 8053 dnat to 172.17.0.2:53
  }
  chain hidden {
    type nat hook postrouting priority 100;
    oifname "eth0" ip saddr 172.17.0.0/16 masquerade
  }
  chain counted {
    type filter hook forward priority 0;
    meta mark 0x4000 counter accept
  }
}
`;

let lab: MeshLab;
let container: Place;

before(async () => {
  lab = await startStory([CLUSTER_A]);
  container = containerOn(lab.machine);
  lab.machine.namespace.feed(FOREIGN_RULES, 'nft', '-f', '-');
  await container.listen({ tcp: [80], udp: [53] });
});
after(async () => {
  await container?.close();
  await lab?.close();
});

/** The published port, as others see it. */
const published = (from: Place): Promise<Outcome> => from.probe({ protocol: 'tcp', to: lab.machine.ipv4, port: 8080 });

test('without a policy the published port is open to the world', async () => {
  await until('the world reaches the container', async () => (await published(lab.topology.world)) === 'pass');
});

test('a policy for the machine holds for the published ports of its containers', async () => {
  await enforce(lab, CROSS_CLUSTER);
  await until('the world is shut out', async () => (await published(lab.topology.world)) === 'blocked');
  const udp = { protocol: 'udp', to: lab.machine.ipv4, port: 8053 } as const;
  assert.equal(await lab.topology.world.probe(udp), 'blocked');
  assert.equal(await published(lab.cluster('cluster-a').place('batch')), 'blocked');
  assert.equal(await published(lab.cluster('cluster-a').place('frontend')), 'pass');
});

test('traffic between the machine and its container stays inside, and is not judged', async () => {
  assert.equal(await lab.machine.probe({ protocol: 'tcp', to: '172.17.0.2', port: 80 }), 'pass');
  const { devices } = await lab.agent.status();
  const roles = new Map(devices.map(({ name, role }) => [name, role]));
  assert.deepEqual(
    ['eth0', 'docker0', 'veth1', 'mesh_vxlan'].map((name) => roles.get(name)),
    ['external', 'internal', 'internal', 'overlay'],
  );
});

test('what the container sends out is judged as the machine is', async () => {
  const { ipv4 } = lab.topology.world;
  assert.equal(await container.probe({ protocol: 'tcp', to: ipv4, port: 80 }), 'pass');
  const inside = { toCIDR: ['198.51.100.0/24'] };
  await enforce(lab, CROSS_CLUSTER.replace('"ingress"', `"egress":[${JSON.stringify(inside)}],"ingress"`));
  await until(
    'the container is kept from the world',
    async () => (await container.probe({ protocol: 'tcp', to: ipv4, port: 80 })) === 'blocked',
  );
});

test('rules of others are as they were, also after a flush was healed', async () => {
  const text = lab.machine.namespace.run('nft', '-s', 'list', 'table', 'ip', 'docker');
  await lab.agent.stop();
  lab.agent.start();
  await lab.agent.untilReady();
  assert.equal(lab.machine.namespace.run('nft', '-s', 'list', 'table', 'ip', 'docker'), text);
  lab.machine.namespace.run('nft', 'delete', 'table', 'inet', 'mesh_agent');
  await until('the world is shut out again', async () => (await published(lab.topology.world)) === 'blocked');
  assert.equal(lab.machine.namespace.run('nft', '-s', 'list', 'table', 'ip', 'docker'), text);
});
