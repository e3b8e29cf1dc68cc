import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MeshError } from '../../src/core/errors.ts';
import { ClusterIds } from '../../src/mesh/cluster-ids.ts';
import { FactTable } from '../../src/mesh/fact-table.ts';
import { isOlder, nextAfter } from '../../src/mesh/generation.ts';
import { type Origin, Origins } from '../../src/mesh/origin.ts';
import { Quarantine } from '../../src/mesh/quarantine.ts';
import { Slices } from '../../src/mesh/slices.ts';

test('a table of facts equals a Map with owners, and its feed names each key whose value changed', () => {
  const key = fc.constantFrom('a', 'b', 'c', 'd', 'e');
  const step = fc.record({
    kind: fc.constantFrom('put' as const, 'remove' as const, 'keep' as const, 'sweep' as const, 'drain' as const),
    origin: fc.nat(1),
    key,
    value: fc.nat(2),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const origins = new Origins();
      const owners = [origins.of('one', 'kvstore'), origins.of('two', 'clustermesh')] as const;
      const table = new FactTable<string, number>((a, b) => a === b);
      const feed = table.changed.read(() => {});
      const model = new Map<string, { origin: Origin; value: number; generation: number }>();
      let generation = 1;
      for (const step of steps) {
        const origin = owners[step.origin] ?? owners[0];
        const before = new Map([...model].map(([name, { value }]) => [name, value]));
        const held = model.get(step.key);
        if (step.kind === 'put') {
          table.put(origin, generation, step.key, step.value);
          model.set(step.key, { origin, value: step.value, generation });
        } else if (step.kind === 'remove') {
          table.remove(origin, step.key);
          if (held?.origin === origin) model.delete(step.key);
        } else if (step.kind === 'keep') {
          assert.equal(table.keep(origin, generation, step.key), held?.origin === origin);
          if (held?.origin === origin) held.generation = generation;
        } else {
          const upTo = step.kind === 'sweep' ? generation : undefined;
          table.sweep(origin, upTo);
          for (const [name, fact] of [...model])
            if (fact.origin === origin && fact.generation !== upTo) model.delete(name);
          generation++;
        }
        const now = new Map([...model].map(([name, { value }]) => [name, value]));
        const differ = ['a', 'b', 'c', 'd', 'e'].filter((name) => before.get(name) !== now.get(name));
        assert.deepEqual([...feed.drain()].sort(), differ);
        assert.deepEqual(new Map(table.entries()), now);
        for (const each of owners)
          assert.equal(table.countOf(each), [...model.values()].filter(({ origin: owner }) => owner === each).length);
      }
    }),
  );
});

test('generations are compared by distance, over the end of their numbers', () => {
  assert.equal(nextAfter(65_535), 0);
  assert.ok(isOlder(65_535, 0));
  assert.ok(isOlder(65_000, 10));
  assert.ok(!isOlder(0, 65_535));
  assert.ok(!isOlder(7, 7));
});

test('quarantine: a refused key is told once, also over lists, and again only after it was good or gone', () => {
  const told: string[] = [];
  const quarantine = new Quarantine(({ key, reason }) => told.push(`${key}: ${reason}`));
  quarantine.refuse('c', 'p/a', 'first', 1);
  quarantine.refuse('c', 'p/a', 'first', 1);
  const { since } = quarantine.list()[0] ?? {};
  // Another list: refused again, for another reason.
  quarantine.refuse('c', 'p/a', 'second', 2);
  quarantine.clearBelow('c', 'p/', 2);
  assert.deepEqual(told, ['p/a: first']);
  assert.deepEqual(quarantine.list(), [{ cluster: 'c', key: 'p/a', reason: 'second', since }]);
  quarantine.clear('c', 'p/a');
  assert.equal(quarantine.size, 0);
  quarantine.refuse('c', 'p/a', 'third', 2);
  assert.deepEqual(told, ['p/a: first', 'p/a: third']);
});

test('quarantine: a list clears what it did not refuse again, of its own cluster and prefix alone', () => {
  const quarantine = new Quarantine(() => {});
  for (const key of ['p/a', 'p/b', 'q/a']) quarantine.refuse('c', key, 'bad', 1);
  quarantine.refuse('d', 'p/a', 'bad', 1);
  quarantine.refuse('c', 'p/b', 'bad', 2);
  quarantine.clearBelow('c', 'p/', 2);
  assert.deepEqual(
    quarantine.list().map(({ cluster, key }) => `${cluster} ${key}`),
    ['c p/b', 'c q/a', 'd p/a'],
  );
  assert.equal(quarantine.countOf('c'), 2);
  assert.equal(quarantine.countOf('d'), 1);
  quarantine.clearBelow('c', 'p/');
  assert.equal(quarantine.countOf('c'), 1);
  assert.equal(quarantine.size, 2);
});

test('quarantine: counts, details, keys and reasons are bounded', () => {
  let told = 0;
  const quarantine = new Quarantine(() => told++);
  for (let index = 0; index < 150_000; index++) quarantine.refuse('c', `k${index}`, 'bad', 1);
  assert.equal(quarantine.countOf('c'), 100_000);
  assert.equal(quarantine.list().length, 1000);
  assert.equal(told, 1000);
  quarantine.clearBelow('c', '');
  assert.equal(quarantine.size, 0);
  const long = 'x'.repeat(1_000_000);
  quarantine.refuse('c', `${long}a`, long, 1);
  quarantine.refuse('c', `${long}b`, long, 1);
  assert.equal(quarantine.size, 2);
  assert.ok(JSON.stringify(quarantine.list()).length < 4000);
  quarantine.clear('c', `${long}a`);
  assert.equal(quarantine.size, 1);
});

const refuses = (work: () => void, words: RegExp): void =>
  assert.throws(
    work,
    (error) => error instanceof MeshError && error.code === 'MSH-CLUSTER-ID' && words.test(error.message),
  );

test('an id belongs to the first cluster that holds it, until it is free', () => {
  const ids = new ClusterIds();
  ids.reserve('a', 7);
  ids.reserve('a', 7);
  refuses(() => ids.reserve('b', 7), /id 7 of b is already used by a/);
  ids.reserve('a', 8);
  ids.reserve('b', 7);
  refuses(() => ids.reserve('c', 8), /already used by a/);
  ids.release('a');
  ids.reserve('c', 8);
});

test('the local cluster takes its id, before and after others hold it', () => {
  const ids = new ClusterIds();
  const evicted: string[] = [];
  ids.reserve('a', 1, { onEvicted: ({ message }) => evicted.push(message) });
  ids.reserve('b', 2, { onEvicted: ({ message }) => evicted.push(message) });
  ids.setOwn({ name: 'own', id: 1 });
  assert.equal(evicted.length, 1);
  assert.match(evicted[0] ?? '', /id 1 of a is assigned to the local cluster own/);
  refuses(() => ids.reserve('a', 1), /assigned to the local cluster own/);
  ids.reserve('own', 1);
  ids.reserve('a', 3);
});

test('clusters whose identities overlap because they disagree on the size of the mesh are refused', () => {
  const ids = new ClusterIds();
  ids.reserve('a', 1);
  // 32,768 identities from 65,536 on: the first half of those of cluster a.
  refuses(() => ids.reserve('evil', 2, { max: 511 }), /identities of evil .*511.* overlap those of a/);
  refuses(() => ids.reserve('evil', 3, { max: 511 }), /overlap/);
  ids.reserve('far', 40, { max: 511 });
  const evicted: string[] = [];
  ids.reserve('early', 12, { max: 511, onEvicted: ({ message }) => evicted.push(message) });
  ids.setOwn({ name: 'own', id: 6 });
  ids.reserve('own', 6);
  assert.match(evicted.join(), /identities of early .* overlap those of own/);
});

test('work in slices is done in order, at once when it is small, and gives the event loop back when it is not', async () => {
  const slices = new Slices();
  const done: string[] = [];
  slices.run([undefined, undefined].values(), () => done.push('small'));
  assert.deepEqual(done, ['small']);
  let turns = 0;
  // Ends when others had their turn, or else fails.
  const busy = function* (): Generator<void> {
    for (const end = performance.now() + 5000; turns < 3 && performance.now() < end; ) yield;
  };
  const finished = new Promise<void>((resolve) => {
    slices.run(busy(), () => done.push('long'));
    slices.run([undefined].values(), () => {
      done.push('behind');
      // Work that is begun at the end of another one is done, too.
      slices.run([undefined].values(), resolve);
    });
  });
  assert.deepEqual(done, ['small']);
  const turn = (): void => {
    turns++;
    if (done.length < 3) setImmediate(turn);
  };
  setImmediate(turn);
  await finished;
  assert.deepEqual(done, ['small', 'long', 'behind']);
  assert.ok(turns >= 3, `${turns} turns of the event loop`);
});
