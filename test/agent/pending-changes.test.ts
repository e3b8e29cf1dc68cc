import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PendingChanges } from '../../src/agent/pending-changes.ts';
import { identity } from '../../src/core/identity.ts';
import type { DesiredChanges } from '../../src/datapath/desired.ts';

const direction = (ids: number[], classes: number[]) => ({
  identities: new Set(ids.map(identity)),
  classes: new Set(classes),
});

test('changes gather until they are taken, and a set that was taken is not touched by what comes later', () => {
  const pending = new PendingChanges();
  assert.equal(pending.empty, true);
  pending.add({ hosts4: [1, 2], ingress: direction([300], [4]) });
  pending.add({
    hosts4: [2, 3],
    hosts6: ['2001:db8::1'],
    services: ['10.96.0.1 6 80'],
    egress: direction([301], []),
    border: true,
  });
  const taken = pending.take();
  assert.equal(pending.empty, true);
  pending.add({ hosts4: [9], overlay: true });
  assert.deepEqual(taken, {
    prefixes: false,
    border: true,
    overlay: false,
    hosts4: new Set([1, 2, 3]),
    hosts6: new Set(['2001:db8::1']),
    services: new Set(['10.96.0.1 6 80']),
    ingress: direction([300], [4]),
    egress: direction([301], []),
  });
});

test('each kind of change alone is a change, and an empty one is none', () => {
  const alone: readonly DesiredChanges[] = [
    { everything: true },
    { prefixes: true },
    { border: true },
    { overlay: true },
    { hosts4: [0] },
    { hosts6: ['::'] },
    { services: ['10.96.0.1 6 80'] },
    { ingress: direction([300], []) },
    { egress: direction([], [1]) },
  ];
  for (const changes of alone) {
    const pending = new PendingChanges();
    pending.add(changes);
    assert.equal(pending.empty, false, JSON.stringify(changes));
  }
  const pending = new PendingChanges();
  pending.add({ prefixes: false, border: false, hosts4: [], ingress: direction([], []) });
  assert.equal(pending.empty, true);
});

test('a set that compares everything swallows single keys, and comes back whole after a failure', () => {
  const pending = new PendingChanges();
  pending.add({ hosts4: [1], prefixes: true });
  pending.add({ everything: true });
  assert.equal(pending.everything, true);
  const taken = pending.take();
  assert.deepEqual(taken, { everything: true });
  pending.add({ hosts4: [2] });
  pending.add(taken);
  assert.deepEqual(pending.take(), { everything: true });
  assert.equal(pending.empty, true);
});
