import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openStore } from '../../src/kvstore/session.ts';
import { Etcd, type EtcdMember } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { healthy, Mirror, QUICK } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start({ members: 3 });
});
after(() => etcd.close());

async function watched(prefix: string) {
  const store = openStore({ etcd: async () => ({ endpoints: etcd.endpoints }), timing: QUICK });
  const mirror = new Mirror();
  const watch = store.watchPrefix(prefix, mirror);
  await until('it is synced', () => watch.synced);
  return { store, mirror, watch };
}

function memberAt(endpoint: string | undefined): EtcdMember {
  const member = etcd.members.find((candidate) => candidate.endpoint === endpoint);
  assert.ok(member, `there is a member at ${endpoint}`);
  return member;
}

async function findLeader(): Promise<EtcdMember> {
  const status = JSON.parse(await etcd.ctl('endpoint', 'status', '-w', 'json')) as {
    Endpoint: string;
    Status: { header: { member_id: number }; leader: number };
  }[];
  return memberAt(status.find(({ Status }) => Status.leader === Status.header.member_id)?.Endpoint);
}

/** Waits until the members that run are a cluster that answers again. */
async function allReady(): Promise<void> {
  for (const member of etcd.members) member.start();
  etcd.resume();
  await etcd.ready();
}

test('a dead endpoint of three is left for another one, and nothing is listed again', async () => {
  const { store, mirror, watch } = await watched('dead/');
  try {
    await etcd.put('dead/a', '1');
    await mirror.matches(etcd, 'dead/');
    const member = memberAt(store.status.endpoint);
    await member.kill();
    await until('it uses another member', () => {
      const { endpoint, state } = store.status;
      return state === 'connected' && endpoint !== undefined && endpoint !== member.endpoint;
    });
    assert.ok(store.status.lastFailure !== undefined);
    await store.put('dead/b', '2');
    await until('the change is seen', () => mirror.content.get('b') === '2');
    assert.equal(watch.lists, 1);
    await healthy(store);
  } finally {
    await store.close();
    await allReady();
  }
});

test('a hung endpoint of three does not hold up the first connect', async () => {
  // Not the leader: without one, nobody answers for some seconds.
  const leader = await findLeader();
  const member = etcd.members.find((candidate) => candidate !== leader) as EtcdMember;
  member.pause();
  try {
    for (let round = 0; round < 4; round++) {
      const began = Date.now();
      const store = openStore({ etcd: async () => ({ endpoints: etcd.endpoints }), timing: { connectMs: 20_000 } });
      await until('it is connected', () => store.status.state === 'connected');
      assert.notEqual(store.status.endpoint, member.endpoint);
      assert.ok(Date.now() - began < 5000);
      await store.close();
    }
  } finally {
    await allReady();
  }
});

test('a hung endpoint of three is left for another one', async () => {
  const { store, mirror } = await watched('hung/');
  const member = memberAt(store.status.endpoint);
  try {
    member.pause();
    await until(
      'it uses another member',
      () => store.status.state === 'connected' && store.status.endpoint !== member.endpoint,
      20_000,
    );
    await store.put('hung/b', '2');
    await until('the change is seen', () => mirror.content.get('b') === '2');
    await healthy(store);
  } finally {
    await store.close();
    await allReady();
  }
});

test('without a quorum facts stay, the trouble shows, and with the quorum everything goes on', async () => {
  const { store, mirror, watch } = await watched('quorum/');
  try {
    await etcd.put('quorum/a', '1');
    await mirror.matches(etcd, 'quorum/');
    const stays = memberAt(store.status.endpoint);
    const others = etcd.members.filter((member) => member !== stays);
    await Promise.all(others.map((member) => member.kill()));
    // The member that is left has no leader: it must not keep us waiting in silence.
    await until('the quorum is missed', () => !store.status.hasQuorum, 20_000);
    await until(
      'the trouble shows',
      () => store.status.troubles.some(({ code }) => code === 'KVS-NO-QUORUM' || code === 'KVS-TIMEOUT'),
      20_000,
    );
    assert.equal(mirror.content.get('a'), '1');
    await assert.rejects(store.put('quorum/b', '2'));
    for (const member of others) member.start();
    await etcd.ready();
    await etcd.put('quorum/c', '3');
    await mirror.matches(etcd, 'quorum/', 30_000);
    await healthy(store);
    assert.equal(watch.lists, 1);
  } finally {
    await store.close();
    await allReady();
  }
});

test('a change of the leader costs no lease: an owned key is never missing', async () => {
  const { store, mirror } = await watched('leader/');
  try {
    const owned = store.own('leader/mine', 'me', { ttlSeconds: 6 });
    await until('it is written', () => mirror.content.get('mine') === 'me');
    // The leader is stopped; the others elect a new one.
    const leader = await findLeader();
    await leader.kill();
    // One and a half lives of the lease.
    const end = Date.now() + 9000;
    await until('the lease would be over', () => Date.now() > end);
    await until('it is connected', () => store.status.state === 'connected');
    assert.equal(owned.written, true);
    assert.equal(mirror.content.get('mine'), 'me');
    assert.deepEqual(mirror.removed, []);
    assert.equal(mirror.puts, 1);
  } finally {
    await store.close();
    await allReady();
  }
});
