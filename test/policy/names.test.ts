import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { fqdnMatches } from '../../src/policy/resolve/names.ts';

const cases: readonly (readonly [pattern: string, matching: readonly string[], others: readonly string[]])[] = [
  ['*', ['a', 'a.x.io', ''], []],
  ['*.x.io', ['a.x.io', 'a-b_1.x.io'], ['x.io', 'b.a.x.io', 'a.y.io', 'a.xyio']],
  ['*x.io', ['x.io', 'myx.io'], ['a.x.io']],
  ['a*b.x.io', ['ab.x.io', 'a-1-b.x.io'], ['a.b.x.io', 'abc.x.io']],
  ['*.*.x.io', ['a.b.x.io'], ['a.x.io', 'a.b.c.x.io']],
  ['**.x.io', ['a.x.io', 'a.b.x.io'], ['x.io', 'ax.io']],
  ['a**.x.io', ['a.x.io', 'abc.x.io'], ['a.b.x.io']],
  ['x.io', ['x.io'], ['xaio', 'a.x.io']],
];

for (const [pattern, matching, others] of cases) {
  test(`the pattern ${pattern} keeps to labels`, () => {
    for (const name of matching) assert.ok(fqdnMatches({ pattern, text: pattern }, name), name);
    for (const name of others) assert.ok(!fqdnMatches({ pattern, text: pattern }, name), name);
  });
}

test('a pattern matches what its regular expression matches', () => {
  const part = fc.string({ unit: fc.constantFrom('a', 'b', '*', '.', '-'), minLength: 1, maxLength: 8 });
  const name = fc.string({ unit: fc.constantFrom('a', 'b', '.', '-'), minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(part, name, (pattern, text) => {
      fc.pre(pattern !== '*' && !pattern.startsWith('**.'));
      const expression = pattern.replaceAll('.', '\\.').replaceAll('*', '[-a-z0-9_]*');
      assert.equal(fqdnMatches({ pattern, text: pattern }, text), new RegExp(`^${expression}$`).test(text));
    }),
    { numRuns: 3000, seed: 11 },
  );
});

test('a pattern full of stars is decided at once', () => {
  const pattern = `${'a*'.repeat(120)}b`;
  assert.ok(!fqdnMatches({ pattern, text: pattern }, 'a'.repeat(5000)));
});
