import assert from 'node:assert/strict';
import { test } from 'node:test';
import { putCertificate } from '../../src/hub/enrolment/books.ts';
import { until } from '../lab/namespace.ts';
import { HubScene, registered } from './hub-scene.ts';
import { announcement, REGISTER } from './machine.ts';

const scene = new HubScene();

test('a machine that is gone is expired at once and withdrawn after the grace; it heals when it comes back', async () => {
  const hub = await scene.lead({ timing: { graceMs: 1500 } });
  await hub.create('vm');
  const machine = scene.machine('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await machine.key.release();
  await until('it is expired', async () => (await hub.get('vm')).state === 'expired');
  assert.notEqual(await scene.pair('192.168.1.5'), undefined, 'not at once');
  const again = scene.machine('vm');
  await again.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await again.key.release();
  await until('it is withdrawn', async () => (await scene.published('vm')).length === 0);
  assert.equal(await scene.get('cilium/state/nodes/v1/vms/vm'), undefined);
  assert.equal((await scene.machines.list('cilium/state/identities/v1/value/')).length, 0);
  assert.equal((await scene.machines.list('cilium/state/identities/v1/id/')).length, 1, 'the number stays for a while');
  await until('it is shown', async () => (await hub.get('vm')).addresses.length === 0);
  const record = await hub.get('vm');
  assert.equal(record.state, 'expired');
  assert.ok((record.lastSeen ?? 0) > Date.now() - 60_000);
  await scene.machine('vm').join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
});

test('a machine that lost its rights is withdrawn at once, not after the grace', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  const machine = scene.machine('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  const certificate = {
    workload: 'vm',
    workloadKey: 'mesh-agent/v1/workloads/default/vm',
    workloadUid: (await hub.get('vm')).uid,
    keyHash: 'x',
    issuedAt: 1,
    notAfter: Date.now() + 3_600_000,
    from: '192.168.1.5',
    pem: 'x',
  };
  await scene.machines.transact({
    perform: putCertificate('01', { ...certificate, revokedAt: Date.now(), revokedBy: 'root' }),
  });
  await machine.key.release();
  await until('it is withdrawn', async () => (await scene.published('vm')).length === 0);
  await until('it is shown', async () => (await hub.get('vm')).state === 'revoked');
  await scene.machines.transact({ perform: putCertificate('02', certificate) });
  const again = scene.machine('vm');
  await again.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await again.key.release();
  await until('it is expired', async () => (await hub.get('vm')).state === 'expired');
  assert.notEqual((await scene.published('vm')).length, 0, 'with another good certificate it may come back');
});

test('a machine whose lease ends is expired, also one that was only answered', async () => {
  const hub = await scene.lead({ timing: { graceMs: 100 } });
  await hub.create('vm');
  scene.machine('vm', { ttlSeconds: 2 });
  await until('it waits', async () => (await hub.get('vm')).state === 'waiting');
  await scene.cutMachines();
  await until('it is expired', async () => (await hub.get('vm')).state === 'expired');
  assert.equal(await scene.get(`${REGISTER}vm`), undefined, 'the answer did not outlive the machine');
});

test('what is deleted is withdrawn at once, and never answered again', async () => {
  const hub = await scene.lead();
  await hub.create('vm');
  const machine = scene.machine('vm');
  await machine.join(['InternalIP', '192.168.1.5']);
  await registered(hub, 'vm');
  await hub.ask('DELETE', 'workloads/vm');
  await until('nothing is left', async () => (await scene.published('vm')).length === 0);
  await until('nor a record', async () => (await scene.machines.list('mesh-agent/v1/registrations/')).length === 0);
  assert.deepEqual(hub.revoked, ['vm']);
  // In spite of its lost rights: our own key handle writes it again.
  machine.key.update(announcement('vm'));
  await until('it is told', () => hub.troubles.some(({ text }) => /no workload of that name/.test(text)));
  assert.equal(await scene.get(`${REGISTER}vm`), announcement('vm'));
  await hub.create('vm', { labels: { other: 'x' } });
  assert.equal((await machine.answer()).Labels.other, 'x');
  assert.equal((await scene.published('vm')).length, 0, 'the new one has reported nothing');
});
