import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PROGRAM, type Program } from '../lab/daemon.ts';
import type { Fleet } from '../lab/hub-fleet.ts';
import { assertReach, type Expected, PORTS, serveEverywhere } from '../lab/matrix.ts';
import { CLUSTER_A } from '../lab/story.ts';

/**
 * A hub of one version and a machine of another: the machine joins, registers, enforces the hub's policies and renews its
 * certificate. Then one of the two is upgraded in place, and back.
 */
export const LIFE_SECONDS = 10;
export const FRONTEND: Expected = { 'cluster-a/frontend > my-vm': 'all', 'cluster-a/batch > my-vm': 'none' };
export const BATCH: Expected = { 'cluster-a/frontend > my-vm': 'none', 'cluster-a/batch > my-vm': 'all' };

export const allow = (app: string): object => ({
  endpointSelector: { matchLabels: { app: 'backend' } },
  ingress: [{ fromEndpoints: [{ matchLabels: { app } }] }],
});

export interface Sides {
  readonly fleet: Fleet;
  /** Of the side that is older. */
  readonly old: Program;
}

export async function begin(fleet: Fleet): Promise<void> {
  await fleet.hub.init();
  fleet.hub.start();
  await Promise.all([fleet.hub.untilLeading(), fleet.add(CLUSTER_A)]);
  await fleet.connect('cluster-a');
  await fleet.peer('cluster-a', ['k8s:app=backend']);
}

/** What both ways have in common. */
export function story(sides: () => Sides): void {
  test('it joins with a token, registers, and enforces what the hub says', async () => {
    const { fleet } = sides();
    await fleet.apply('web', allow('frontend'));
    await fleet.create('my-vm');
    const { state, machine } = await fleet.join('my-vm');
    await serveEverywhere(fleet);
    assert.equal(state, 'ok');
    const record = await fleet.workload('my-vm');
    assert.deepEqual([record.state, record.identity], ['registered', machine.identity]);
    await assertReach(fleet, FRONTEND, 10_000);
  });

  test('the command line of the other version shows both', async () => {
    const { fleet, old } = sides();
    const [agent, hub] = [fleet.agent.program, fleet.hub.program];
    fleet.agent.program = agent === PROGRAM ? old : PROGRAM;
    fleet.hub.program = hub === PROGRAM ? old : PROGRAM;
    for (const { code, stdout, stderr } of [await fleet.agent.run('status'), await fleet.hub.run('status')])
      assert.equal(code, 0, stdout + stderr);
    assert.match((await fleet.agent.run('ipcache', 'list')).stdout, /10\.244\.1\.5/);
    assert.match(await fleet.hub.must('workload', 'list'), /my-vm/);
    [fleet.agent.program, fleet.hub.program] = [agent, hub];
  });

  test('its certificate is renewed, and a policy of after that is enforced', async () => {
    const { fleet } = sides();
    const renewed = await fleet.agent.untilStatus(
      'a renewal',
      ({ certificate }) => (certificate?.renewals ?? 0) >= 1,
      60_000,
    );
    assert.equal(renewed.state, 'ok');
    await fleet.apply('web', allow('batch'));
    await assertReach(fleet, BATCH, 10_000);
    await fleet.apply('web', allow('frontend'));
    await assertReach(fleet, FRONTEND, 10_000);
  });
}

/** The allowed flow loses no packet while something is exchanged, and the world, which nothing allows, gets none in. */
export async function unbroken(fleet: Fleet, exchange: () => Promise<void>): Promise<void> {
  const forbidden = await fleet.topology.world.flow(fleet.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  const self = await fleet.machine.flow(fleet.topology.world.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  await exchange();
  const [out, kept] = await Promise.all([self.stop(), forbidden.stop()]);
  assert.ok(out.sent > 50);
  assert.equal(out.received, out.sent);
  assert.equal(kept.received, 0);
}
