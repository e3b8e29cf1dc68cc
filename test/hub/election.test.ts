import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Election, LEADER_KEY, type Leadership } from '../../src/hub/election.ts';
import { openMachineAccess } from '../../src/hub/etcd/machine-access.ts';
import type { HubStatusRecord } from '../../src/hub/types.ts';
import type { WriterStore } from '../../src/kvstore/writer-store.ts';
import { Etcd, loopbackAddress } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { HubProcess } from './hub-process.ts';

/** The promise for a leader that was killed, milliseconds. */
const TAKEOVER_MS = 15_000;
const PORT = 11_379;
let a: HubProcess;
let b: HubProcess;
let etcd: Etcd;
let store: WriterStore;

before(async () => {
  const address = loopbackAddress();
  a = await HubProcess.make({ etcdEndpoints: [`https://${address}:${PORT}`] });
  b = HubProcess.twin(a);
  const { internal, etcdServer, admin } = a.folder;
  etcd = await Etcd.start({
    address,
    port: PORT,
    tls: {
      server: { ca: internal.cert, cert: etcdServer.cert, key: etcdServer.key },
      admin: { ca: internal.cert, cert: admin.cert, key: admin.key },
    },
  });
  store = a.open();
});
after(async () => {
  await Promise.all([a.close(), b.close()]);
  await etcd.close();
});

const written = (status: HubStatusRecord): number =>
  (status.parts.find(({ name }) => name === 'counter')?.facts as { written?: number } | undefined)?.written ?? 0;

/** Waits until this hub leads and its leader's part writes; its term. */
async function leads(lab: HubProcess): Promise<number> {
  await lab.untilStatus('that it leads and writes', (status) => status.leader?.here === true && written(status) > 0);
  return (await store.read(LEADER_KEY))?.createRevision ?? 0;
}

test('of two hubs on a given etcd one leads; when it is killed the other one takes over in time', async () => {
  await a.run();
  const first = await leads(a);
  await b.run();
  const status = await b.status();
  assert.deepEqual([status.leader?.here, status.etcd.own], [false, false]);
  assert.ok(!status.parts.some(({ name }) => name === 'counter'));
  const from = Date.now();
  await a.end('SIGKILL');
  const second = await leads(b);
  assert.ok(Date.now() - from < TAKEOVER_MS, `it took ${Date.now() - from} ms`);
  assert.ok(second > first);
});

test('machines come to a given etcd through the guard of any hub, with their own rights alone', async () => {
  await openMachineAccess({ session: store.session, cluster: 'vms', onRevoked: () => {} }).grant('vm1');
  const vm = b.open(await b.client('machine:vm1'));
  await vm.put('cilium/state/noderegister/v1/vm1', 'x');
  await assert.rejects(vm.put('cilium/x', 'y'), { code: 'KVS-AUTH' });
  const around = b.open({ ...(await b.client('machine:vm1')), endpoints: [...etcd.endpoints] });
  await until('etcd itself does not let it in', () => around.status.lastFailure !== undefined);
  assert.notEqual(around.status.state, 'connected');
  const seen: string[] = [];
  const watch = vm.watchPrefix('cilium/cache/', {
    listing() {},
    put: (key) => seen.push(key),
    remove() {},
    listed() {},
  });
  await until('it watches', () => watch.synced);
  await a.run();
  await a.revoke('vm1');
  await until(
    'its connection to the other hub ended',
    () => vm.status.reconnections > 0 || vm.status.state !== 'connected',
  );
  await store.put('cilium/cache/a', '1');
  await assert.rejects(vm.get('cilium/.heartbeat'), { code: 'KVS-AUTH' });
  assert.deepEqual(seen, []);
});

test('a leader that was stopped and wakes up writes nothing more, and follows', async () => {
  const old = await leads(b);
  b.signal('SIGSTOP');
  const next = await leads(a);
  const key = `mesh-agent/v1/test/${old}`;
  const last = (await store.read(key))?.modRevision;
  assert.ok(last !== undefined && last < next);
  b.signal('SIGCONT');
  await b.untilStatus(
    'that the other one leads',
    ({ leader, parts }) => leader?.here === false && !parts.some(({ name }) => name === 'counter'),
  );
  const { written: before } = { written: written(await a.status()) };
  await a.untilStatus('that it goes on', (status) => written(status) > before + 5);
  assert.equal((await store.read(key))?.modRevision, last);
  assert.equal((await store.read(LEADER_KEY))?.createRevision, next);
});

test('a leader that stops hands over at once', async () => {
  await leads(a);
  const from = Date.now();
  await a.end();
  await leads(b);
  assert.ok(Date.now() - from < 5000, `it took ${Date.now() - from} ms`);
});

test('a restart of etcd that is shorter than the lease ends no term', async () => {
  const term = await leads(b);
  await etcd.restart();
  await b.untilStatus('that it is connected again', ({ store }) => store.state === 'connected');
  const before = written(await b.status());
  await b.untilStatus('that it writes again', (status) => written(status) > before);
  assert.equal((await store.read(LEADER_KEY))?.createRevision, term);
  await b.end();
});

test('a transaction of a leader tells its own refusal from the end of its term', async () => {
  let leader: Leadership | undefined;
  let ended = 0;
  const election = new Election({
    store,
    id: 'test',
    ttlSeconds: 5,
    lead: async (term) => {
      leader = term;
      await new Promise((resolve) => term.signal.addEventListener('abort', resolve, { once: true }));
      ended++;
    },
    onChange: () => {},
    onProblem: () => {},
  });
  await until('it leads', () => leader !== undefined, 20_000);
  const first = leader as Leadership;
  const done = await first.transact({ perform: [{ put: 'mesh-agent/v1/test/x', value: '1' }] });
  assert.ok(done.succeeded);
  const refused = await first.transact({
    when: [{ key: 'mesh-agent/v1/test/x', createRevision: 0 }],
    perform: [{ put: 'mesh-agent/v1/test/x', value: '2' }],
    otherwise: [{ get: 'mesh-agent/v1/test/x' }],
  });
  assert.deepEqual([refused.succeeded, refused.answers[0]?.found[0]?.value.toString()], [false, '1']);
  await store.remove(LEADER_KEY);
  await assert.rejects(first.transact({ perform: [{ put: 'mesh-agent/v1/test/x', value: '3' }] }), {
    code: 'HUB-NOT-LEADER',
  });
  await until('the term ended, and another one began', () => ended === 1 && leader !== first, 20_000);
  assert.ok((leader as Leadership).term > first.term);
  assert.equal((await store.read('mesh-agent/v1/test/x'))?.value.toString(), '1');
  await election.stop();
  assert.equal(await store.read(LEADER_KEY), undefined);
});
