import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Fleet } from '../lab/hub-fleet.ts';
import { until } from '../lab/namespace.ts';
import { ServiceLab } from '../lab/services.ts';
import { CLUSTER_A, CLUSTER_B } from '../lab/story.ts';

/** A machine that sees two clusters through a hub alone: what becomes of a global service when one of them fails. */
const API = 'production/api';
const ALL = ['cluster-a', 'cluster-a', 'cluster-b'] as const;

let fleet: Fleet;
let mesh: ServiceLab;

before(async () => {
  fleet = await Fleet.start({ clusters: [CLUSTER_A, CLUSTER_B] });
  mesh = new ServiceLab(fleet);
  fleet.agent.configure({ services: { lossGrace: '2s' } });
  assert.equal((await fleet.agent.run('config', 'reload')).code, 0);
  await mesh.announce('cluster-a', 'api', '10.96.0.10');
  await mesh.announce('cluster-b', 'api', '10.97.0.10');
  await mesh.serving(API, ALL);
});
after(() => fleet?.close());

test('a cluster that is cut off under load leaves after the grace, by the word of the hub, and comes back', async (t) => {
  const load = mesh.load('10.97.0.10');
  t.after(() => load.end());
  mesh.cutOff('cluster-b');
  await mesh.serving(API, ['cluster-a', 'cluster-a']);
  const left = performance.now();
  const lost = (await mesh.backends(API)).find(({ cluster }) => cluster === 'cluster-b');
  assert.deepEqual([lost?.state, lost?.reason], ['unreachable', 'cluster-b is lost']);
  await fleet.agent.untilHealth('MSH-SERVICE-LOST', 'services');
  await until('the load went on', () => load.since(left).length > 40);
  mesh.restore('cluster-b');
  await mesh.serving(API, ALL);
  mesh.forget();
  await until('it has its share again', () => (mesh.counts()['cluster-b/frontend'] ?? 0) > 3);
  await load.end();
  assert.deepEqual([...new Set(load.since(left))], ['pass']);
});

test('the last word of a hub that is away stays: what it called lost is lost, and the rest serves', async () => {
  mesh.cutOff('cluster-b');
  await mesh.serving(API, ['cluster-a', 'cluster-a']);
  await fleet.hub.kill();
  await fleet.agent.untilStatus('it is missed', ({ kvstore }) => kvstore.state !== 'connected');
  assert.equal(await mesh.connect('10.97.0.10', 20), 'pass');
  assert.equal((await mesh.backends(API)).find(({ cluster }) => cluster === 'cluster-b')?.state, 'unreachable');
  mesh.restore('cluster-b');
  fleet.hub.start();
  await fleet.hub.untilLeading();
  await mesh.serving(API, ALL);
});
