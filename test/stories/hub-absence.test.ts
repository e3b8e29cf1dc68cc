import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { hubFolder } from '../../src/hub/folder.ts';
import type { HubServiceRecord } from '../../src/hub/services/records.ts';
import { Fleet } from '../lab/hub-fleet.ts';
import { until } from '../lab/namespace.ts';
import type { Place } from '../lab/place.ts';

/** Machines with a service that has no check: what becomes of it when they die, or when the way to the hub does. */
const KEY = 'production/api';
const MACHINES = ['vm-1', 'vm-2', 'vm-3'] as const;
const ACTIVE = 'vm-1 active, vm-2 active, vm-3 active';
const CUT = `table inet cut {
  chain enter { type filter hook prerouting priority -400; iifname "eth0" drop; }
  chain leave { type filter hook postrouting priority -400; oifname "eth0" drop; }
}`;
const cut = ({ namespace }: Place): void => void namespace.feed(CUT, 'nft', '-f', '-');
const mend = ({ namespace }: Place): void => void namespace.run('nft', 'delete', 'table', 'inet', 'cut');

let fleet: Fleet;

before(async () => {
  fleet = new Fleet();
  await fleet.hub.init();
  appendFileSync(hubFolder(fleet.hub.stateDir).config, 'services: {unreachableAfter: 15s}\n');
  fleet.hub.start();
  await fleet.hub.untilLeading();
  for (const name of MACHINES) await fleet.create(name);
  for (const name of MACHINES) fleet.machineFor(name);
  await Promise.all(MACHINES.map((name) => fleet.join(name)));
  const spec = ['--namespace', 'production', '--port', '80', '--selector', 'app=backend', '--global'];
  await fleet.hub.must('service', 'create', 'api', ...spec);
  await states(ACTIVE);
});
after(() => fleet?.close());

const service = (): Promise<HubServiceRecord> => fleet.hub.ask(`/v1/services/${KEY}`);
const now = async (): Promise<string> =>
  [...new Set((await service()).backends.map(({ workload, state }) => `${workload} ${state}`))].sort().join(', ');
const states = (wanted: string): Promise<void> => until(wanted, async () => (await now()) === wanted, 60_000);
const codes = async (): Promise<string[]> => (await fleet.hub.status()).health.map(({ code }) => code);
/** What clusters read: backends by address. */
const published = (): number =>
  (
    fleet.hub
      .etcdctl('get', '--print-value-only', `cilium/state/services/v1/vms/${KEY}`)
      .match(/192\.168\.100\.\d+/g) ?? []
  ).length;
function placeOf(name: string): Place {
  const place = fleet.topology.machines.find(({ label }) => label === name);
  if (place === undefined) throw new Error(`there is no machine ${name}`);
  return place;
}

test('a machine whose agent is killed leaves the service after the grace, and is back with its agent', async (t) => {
  await fleet.agentOf('vm-1').kill();
  const killed = Date.now();
  await states('vm-1 no-answer, vm-2 active, vm-3 active');
  t.diagnostic(`out ${Date.now() - killed} ms after it was killed`);
  await until('clusters read two', () => published() === 2);
  assert.match(
    await fleet.hub.must('service', 'get', KEY),
    /vm-1 .* no answer +\d+s ago +no hub has a connection of it/,
  );
  assert.match(await fleet.hub.must('workload', 'list'), /vm-1 +registered, unreachable/);
  assert.match(
    await fleet.hub.must('workload', 'get', 'vm-1'),
    /Unreachable: +for \d+s: no hub has a connection of it/,
  );
  assert.ok((await codes()).includes('HUB-MACHINES-GONE'));
  fleet.agentOf('vm-1').start();
  await states(ACTIVE);
  await until('nothing is told any more', async () => !(await codes()).includes('HUB-MACHINES-GONE'));
});

test('a machine whose line is cut, so that it cannot even say so, leaves and comes back the same way', async (t) => {
  cut(placeOf('vm-2'));
  const silent = Date.now();
  await states('vm-1 active, vm-2 no-answer, vm-3 active');
  t.diagnostic(`out ${Date.now() - silent} ms after its line was cut`);
  mend(placeOf('vm-2'));
  await states(ACTIVE);
});

test('a hub that is killed and started again takes nobody out', async () => {
  await fleet.hub.kill();
  fleet.hub.start();
  await fleet.hub.untilLeading();
  // Longer than the grace, which began anew.
  for (const end = Date.now() + 20_000; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 250)))
    assert.equal(await now(), ACTIVE);
});

test('a hub that is cut off from all machines keeps them all, and says so', async () => {
  cut(fleet.hub.place);
  await until('it is told', async () => (await codes()).includes('HUB-MACHINES-KEPT'), 60_000);
  assert.equal(await now(), ACTIVE);
  assert.equal(published(), 3);
  mend(fleet.hub.place);
  await until('nothing is told any more', async () => !(await codes()).includes('HUB-MACHINES-KEPT'), 60_000);
  assert.equal(await now(), ACTIVE);
});
