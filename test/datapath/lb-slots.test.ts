import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SIZES, STICKY_SIZES, sizeFor, stickySizeFor } from '../../src/datapath/lb/sizes.ts';
import { assignSlots, type Share, stickySlots } from '../../src/datapath/lb/slots.ts';
import { MAX_TARGETS } from '../../src/service/result.ts';

const shares = fc
  .uniqueArray(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 30, size: 'max' })
  .chain((names) =>
    fc
      .array(fc.integer({ min: 1, max: 9 }), { minLength: names.length, maxLength: names.length })
      .map((weights) => names.map((name, index): Share => ({ endpoint: `t${name}`, weight: weights[index] ?? 1 }))),
  );
const held = fc.array(
  fc.option(
    fc.integer({ min: 0, max: 40 }).map((name) => `t${name}`),
    { nil: undefined },
  ),
  {
    maxLength: 300,
    size: 'max',
  },
);

function count(slots: readonly (string | undefined)[]): Map<string, number> {
  const found = new Map<string, number>();
  for (const slot of slots) if (slot !== undefined) found.set(slot, (found.get(slot) ?? 0) + 1);
  return found;
}

test('each target gets its share of the slots to the nearest slot, whatever was held before', () => {
  fc.assert(
    fc.property(shares, held, fc.integer({ min: 0, max: 200 }), (all, before, more) => {
      const total = all.reduce((sum, { weight }) => sum + weight, 0);
      const size = total + more;
      const slots = assignSlots(size, all, before);
      assert.equal(slots.length, size);
      const counts = count(slots);
      for (const { endpoint, weight } of all) {
        const exact = (size * weight) / total;
        const got = counts.get(endpoint) ?? 0;
        assert.ok(got >= Math.floor(exact) && got <= Math.ceil(exact), `${endpoint}: ${got} of ${exact}`);
      }
    }),
    { numRuns: 500 },
  );
});

test('one target less or more changes its own share of the slots alone', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 60 }), fc.integer({ min: 0, max: 59 }), (number, chosen) => {
      const all = Array.from({ length: number }, (_, n): Share => ({ endpoint: `t${n}`, weight: 1 }));
      const rest = all.filter((_, index) => index !== chosen % number);
      const full = assignSlots(1024, all, []);
      const fewer = assignSlots(1024, rest, full);
      const moved = full.filter((endpoint, slot) => fewer[slot] !== endpoint);
      assert.deepEqual(new Set(moved), new Set([`t${chosen % number}`]));
      const again = assignSlots(1024, all, fewer);
      const taken = fewer.filter((endpoint, slot) => again[slot] !== endpoint).length;
      assert.ok(taken <= Math.ceil(1024 / number), `${taken} slots moved for a share of ${1024 / number}`);
    }),
  );
});

test('clients that stay: a target that leaves moves its own alone, who find it again when it comes back', () => {
  const all = Array.from({ length: 10 }, (_, n): Share => ({ endpoint: `10.0.0.${n} 80`, weight: 1 }));
  const full = stickySlots(1024, all);
  for (const { endpoint } of all) {
    const without = stickySlots(
      1024,
      all.filter((each) => each.endpoint !== endpoint),
    );
    full.forEach((owner, slot) => {
      if (owner !== endpoint) assert.equal(without[slot], owner);
    });
    const got = full.filter((owner) => owner === endpoint).length;
    // A tenth is 102, with a deviation of 10.
    assert.ok(got > 50 && got < 155, `${endpoint} has ${got} of 1024 slots`);
  }
});

test('targets of very different weights all get a slot', () => {
  const all = Array.from({ length: MAX_TARGETS }, (_, n): Share => ({ endpoint: `t${n}`, weight: n === 0 ? 100 : 1 }));
  const slots = assignSlots(sizeFor(MAX_TARGETS + 99), all, []);
  assert.equal(count(slots).size, MAX_TARGETS);
});

test('there is a rule for every size that is asked for', () => {
  for (const shares of [1, 2, 64, 65, 100, 1000, MAX_TARGETS, MAX_TARGETS * 100])
    assert.ok(SIZES.includes(sizeFor(shares)));
  for (const targets of [1, 16, 17, 64, 65, 1000, MAX_TARGETS])
    assert.ok(STICKY_SIZES.includes(stickySizeFor(targets)));
});
