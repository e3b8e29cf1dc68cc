import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { assertReach } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, startStory } from '../lab/story.ts';
import type { Registration } from '../lab/workload.ts';

/** The network of the machine changes under the agent, and the agent is stopped when it is least convenient. */
let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A]);
  await enforce(lab, CROSS_CLUSTER);
});
after(() => lab?.close());

const ip = (...args: string[]): string => lab.machine.namespace.run('ip', ...args);

function moveTo(from: string, to: string): void {
  ip('address', 'delete', `${from}/24`, 'dev', 'eth0');
  ip('address', 'add', `${to}/24`, 'dev', 'eth0');
  ip('route', 'replace', 'default', 'via', '192.168.100.1');
}

async function registeredAddresses(): Promise<string[]> {
  const text = await lab.cluster('cluster-a').facts.store.get('cilium/state/noderegister/v1/my-vm');
  return ((JSON.parse(text ?? '{}') as Registration).IPAddresses ?? []).map(({ IP }) => IP);
}

test('an address that goes takes the connection to the store along: it is made anew at once, and the new address is registered', async (t) => {
  const began = performance.now();
  moveTo('192.168.100.10', '192.168.100.77');
  await until(
    'the new address is registered',
    async () => (await registeredAddresses()).includes('192.168.100.77'),
    20_000,
  );
  const took = performance.now() - began;
  t.diagnostic(`${took.toFixed(0)} ms`);
  // The pings of the connection would need eleven seconds.
  assert.ok(took < 8000, `${took} ms`);
  assert.ok(!(await registeredAddresses()).includes('192.168.100.10'));
  const status = await lab.agent.untilStatus(
    'the overlay has the new source',
    ({ machine, datapath, health }) => machine.ipv4 === '192.168.100.77' && datapath.applied && health.length === 0,
  );
  assert.equal(status.registration.state, 'registered');
  assert.doesNotMatch(lab.agent.log, /foreign/);
  moveTo('192.168.100.77', '192.168.100.10');
  await until('the old one is back', async () => (await registeredAddresses()).includes('192.168.100.10'), 20_000);
  await lab.agent.untilReady();
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
});

test('an address that changes ten times in a second is registered as it is in the end, with few writes', async () => {
  const { store } = lab.cluster('cluster-a').facts;
  const revision = async (): Promise<bigint> =>
    BigInt((await store.list('cilium/state/noderegister/'))[0]?.modRevision ?? 0);
  const before = await revision();
  for (let i = 0; i < 5; i++) {
    moveTo('192.168.100.10', '192.168.100.77');
    await new Promise((resolve) => setTimeout(resolve, 100));
    moveTo('192.168.100.77', '192.168.100.10');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await lab.agent.untilReady();
  await lab.agent.untilStatus(
    'all is well',
    ({ health, machine }) => health.length === 0 && machine.ipv4 === '192.168.100.10',
  );
  await until('it is registered', async () => (await registeredAddresses()).includes('192.168.100.10'), 20_000);
  assert.ok((await revision()) - before < 100n);
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
});

test('containers that come and go write nothing into the store', async () => {
  const { store } = lab.cluster('cluster-a').facts;
  const revision = async (): Promise<string> =>
    String((await store.list('cilium/state/noderegister/'))[0]?.modRevision);
  const before = await revision();
  const { reconnections } = (await lab.agent.status()).kvstore;
  for (let i = 0; i < 20; i++) {
    ip('link', 'add', `c${i}`, 'up', 'type', 'veth', 'peer', 'name', `p${i}`);
    ip('address', 'add', `172.30.${i}.1/24`, 'dev', `c${i}`);
  }
  await lab.agent.untilStatus('the last one is seen', ({ devices }) => devices.some(({ name }) => name === 'c19'));
  for (let i = 0; i < 20; i++) ip('link', 'delete', `c${i}`);
  await lab.agent.untilStatus('and gone', ({ devices }) => !devices.some(({ name }) => name === 'c19'));
  assert.equal(await revision(), before);
  assert.equal((await lab.agent.status()).kvstore.reconnections, reconnections);
});

async function stopTime(): Promise<number> {
  const began = performance.now();
  await lab.agent.stop();
  return performance.now() - began;
}

test('an agent ends within seconds while its store hangs and holds a write of it', async () => {
  const { door } = lab.cluster('cluster-a');
  door.hang();
  moveTo('192.168.100.10', '192.168.100.77');
  await lab.agent.untilStatus('the new address is seen', ({ machine }) => machine.ipv4 === '192.168.100.77');
  const took = await stopTime();
  moveTo('192.168.100.77', '192.168.100.10');
  door.resume();
  door.cut();
  assert.ok(took < 4000, `${took} ms`);
  assert.match(lab.agent.log, /mesh-agent stops/);
  // The kernel has dropped routes with the address that went; the next agent brings them back.
  lab.agent.start();
  await lab.agent.untilReady();
  await lab.agent.stop();
});

test('an agent that is stopped at any moment of its start ends at once, and the rules stay', async () => {
  for (const ms of [150, 250, 350, 500, 700, 1000]) {
    lab.agent.start();
    await new Promise((resolve) => setTimeout(resolve, ms));
    const took = await stopTime();
    assert.ok(took < 4000, `${took} ms when stopped ${ms} ms after its start`);
  }
  assert.doesNotMatch(lab.agent.log, /unexpected error|cannot run|did not stop/);
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' });
});
