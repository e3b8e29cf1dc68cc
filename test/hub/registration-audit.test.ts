import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AuditRecord } from '../../src/api/enrolment.ts';
import { AuditLog } from '../../src/hub/enrolment/audit.ts';
import { putCertificate } from '../../src/hub/enrolment/books.ts';
import { openWriterStore } from '../../src/kvstore/writer-store.ts';
import { silentLog } from '../../src/observe/log.ts';
import { until } from '../lab/namespace.ts';
import { HubScene, registered } from './hub-scene.ts';
import { REGISTER } from './machine.ts';

const scene = new HubScene();

async function audit(workload: string): Promise<AuditRecord[]> {
  const log = new AuditLog({ store: scene.machines, log: silentLog, now: Date.now });
  return (await log.list()).filter((record) => record.workload === workload);
}

async function recorded(workload: string, ...events: readonly string[]): Promise<AuditRecord[]> {
  await until(`${events} are on record`, async () => {
    const found = (await audit(workload)).map(({ event }) => event);
    return events.every((event) => found.filter((each) => each === event).length === count(events, event));
  });
  return audit(workload);
}

function count(events: readonly string[], event: string): number {
  return events.filter((each) => each === event).length;
}

const session = async (name: string): Promise<string | undefined> =>
  (await scene.machines.read(`${REGISTER}${name}`))?.lease;

test('who registered is on record: when, as what, under which lease and certificate, and when it ended', async () => {
  const hub = await scene.lead({ timing: { graceMs: 500 } });
  const { uid } = await hub.create('vm');
  const certificate = {
    workload: 'vm',
    workloadKey: 'mesh-agent/v1/workloads/default/vm',
    workloadUid: uid,
    keyHash: 'x',
    notAfter: Date.now() + 3_600_000,
    from: '192.168.1.5',
    pem: 'x',
  };
  for (const [serial, more] of [
    ['0A', { issuedAt: 1 }],
    ['0B', { issuedAt: 2 }],
    ['0C', { issuedAt: 3, revokedAt: 4, revokedBy: 'root' }],
  ] as const)
    await scene.machines.transact({ perform: putCertificate(serial, { ...certificate, ...more }) });
  const began = Date.now();
  const machine = scene.machine('vm');
  const { NodeIdentity } = await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  const lease = await session('vm');
  const [first] = await recorded('vm', 'registered');
  assert.equal(first?.session, lease);
  assert.equal(first?.serial, '0B', 'the newest that is good');
  assert.equal(first?.by, 'machine vm');
  assert.equal(first?.reason, `identity ${NodeIdentity}, 192.168.1.5`);
  assert.ok((first?.at ?? 0) >= began && (first?.at ?? 0) <= Date.now());

  await machine.key.release();
  const records = await recorded('vm', 'registered', 'registration-ended', 'withdrawn');
  assert.equal(records[1]?.session, lease);
  assert.match(records[2]?.reason ?? '', /its registration ended/);

  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  const again = await recorded('vm', 'registered', 'registered', 'registration-ended', 'withdrawn');
  assert.notEqual(again.at(-1)?.session, lease, 'another lease is another session');
});

test('a machine that comes back under another lease before the first one ended is on record', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  const value = (await scene.get(`${REGISTER}vm`)) ?? '';
  await recorded('vm', 'registered');
  // As a restarted agent does that finds its own value: it never announced itself anew.
  const restarted = openWriterStore({ etcd: async () => ({ endpoints: scene.etcd.endpoints }) });
  try {
    const second = restarted.own(`${REGISTER}vm`, value);
    await until('it is there', () => second.written);
    const records = await recorded('vm', 'registered', 'registered');
    assert.equal(records.at(-1)?.session, await session('vm'));
    assert.notEqual(records[0]?.session, records[1]?.session);
  } finally {
    await restarted.close();
  }
});

test('what a machine claims and must not have is on record once, also when another hub takes over', async () => {
  const one = await scene.lead();
  await one.create('vm');
  await one.create('other');
  await scene.machine('other').join(['InternalIP', '192.168.1.6']);
  await registered(one, 'other');
  const machine = scene.machine('vm');
  const answer = await machine.answer();
  const addresses = [
    ['InternalIP', '192.168.1.5'],
    ['InternalIP', '192.168.1.6'],
  ] as const;
  machine.report(answer, addresses, { NodeIdentity: 6_500_000, Labels: { role: 'root' } });
  await registered(one, 'vm');
  const [refused] = (await recorded('vm', 'registered', 'registration-refused')).filter(
    ({ event }) => event === 'registration-refused',
  );
  assert.match(refused?.reason ?? '', /192\.168\.1\.6: workload other has it/);
  assert.match(refused?.reason ?? '', /it claims identity 6500000/);
  assert.match(refused?.reason ?? '', /it claims labels role=root/);
  const before = (await audit('vm')).length + (await audit('other')).length;
  await scene.stop(one);
  const two = await scene.lead();
  await until('it has looked at all', () => two.status.complete && two.status.waiting === 0);
  await two.create('last');
  await scene.machine('last').join(['InternalIP', '192.168.1.7']);
  await registered(two, 'last');
  await recorded('last', 'registered');
  assert.equal((await audit('vm')).length + (await audit('other')).length, before);
});

test('a machine that registers without a workload, and one that was deleted, are on record', async () => {
  const hub = await scene.lead();
  scene.machine('nobody');
  const [refused] = await recorded('nobody', 'registration-refused');
  assert.match(refused?.reason ?? '', /no workload of that name/);
  await hub.create('vm');
  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await hub.ask('DELETE', 'workloads/vm');
  const records = await recorded('vm', 'registered', 'withdrawn');
  assert.match(records.find(({ event }) => event === 'withdrawn')?.reason ?? '', /its workload was deleted/);
});

test('a machine that claims something else all the time fills nothing; the rest is counted', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  const machine = scene.machine('vm');
  const answer = await machine.answer();
  for (let n = 0; n < 60; n++) {
    machine.report(answer, [['InternalIP', '192.168.1.5']], { NodeIdentity: 6_500_000 + n });
    await until('it is shown', async () => (await hub.get('vm')).claims.join().includes(`identity ${6_500_000 + n}`));
  }
  const refused = (await audit('vm')).filter(({ event }) => event === 'registration-refused');
  assert.ok(refused.length >= 10 && refused.length <= 22, `${refused.length} on record`);
});

test('registrations push out neither who joined, nor more than their own share', async () => {
  const log = new AuditLog({ store: scene.machines, log: silentLog, now: Date.now, keep: 10 });
  await log.write({ event: 'joined', workload: 'vm', by: 'machine vm' });
  const perform = Array.from({ length: 50 }, (_, n) =>
    log.operation({ event: 'registered', workload: 'vm', reason: String(n) }, { at: Date.now() + n, suppressed: 0 }),
  );
  await scene.machines.transact({ perform });
  assert.equal(await log.trim(), 40);
  const events = (await log.list()).map(({ event }) => event);
  assert.equal(count(events, 'joined'), 1);
  assert.equal(count(events, 'registered'), 10);
});
