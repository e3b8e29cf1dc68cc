import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { WordTable } from '../../src/core/word-table.ts';

const content = (table: WordTable): [string, number][] => {
  const rows: [string, number][] = [];
  table.forEach((slot) => {
    rows.push([table.keyAt(slot).join('.'), table.get(slot, 1)]);
  });
  return rows.sort((a, b) => (a[0] < b[0] ? -1 : 1));
};

for (const keyWords of [1, 4] as const) {
  test(`a table of ${keyWords}-word keys equals a Map after any run of inserts and removes`, () => {
    // Few distinct words, so that keys collide, are removed and come back.
    const key = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: keyWords, maxLength: keyWords });
    const step = fc.record({ remove: fc.boolean(), key, value: fc.integer({ min: 0, max: 0xffffffff }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
        const table = new WordTable({ keyWords, columns: 2 });
        const map = new Map<string, number>();
        for (const { remove, key, value } of steps) {
          if (remove) assert.equal(table.remove(key), map.delete(key.join('.')));
          else {
            table.set(table.insert(key), 1, value);
            map.set(key.join('.'), value);
          }
        }
        assert.equal(table.size, map.size);
        assert.deepEqual(
          content(table),
          [...map].sort((a, b) => (a[0] < b[0] ? -1 : 1)),
        );
        for (const [text, value] of map) assert.equal(table.lookup(text.split('.').map(Number), 1), value);
      }),
    );
  });
}

test('a key that is inserted again starts with zeroed columns', () => {
  const table = new WordTable({ keyWords: 1, columns: 2 });
  table.set(table.insert([7]), 0, 9);
  table.remove([7]);
  assert.equal(table.get(table.insert([7]), 0), 0);
});
