import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MAX_TEXT } from '../../src/policy/language/document.ts';
import { parsePolicies } from '../../src/policy/language/parse.ts';
import { policy } from './build.ts';
import { policyObject, textOf } from './scenario.ts';

const FIXED = { seed: 7 };

/** Either objects or an error, and every bad object says where. */
function survives(text: string): void {
  const { objects, error } = parsePolicies(text);
  if (error !== undefined) assert.equal(objects.length, 0);
  for (const object of objects) {
    if (object.type !== 'bad') continue;
    assert.ok(object.error.message !== '' && object.error.line >= 1);
  }
}

test('any text is read or refused, never a crash', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 300 }), survives), { numRuns: 2000, ...FIXED });
  const bytes = fc.uint8Array({ maxLength: 300 }).map((each) => Buffer.from(each).toString('utf8'));
  fc.assert(fc.property(bytes, survives), { numRuns: 2000, ...FIXED });
});

test('any text made of the marks of YAML is read or refused', () => {
  const mark = fc.constantFrom(
    '- ',
    ': ',
    '\n',
    '  ',
    '{',
    '}',
    '[',
    ']',
    ',',
    '&a ',
    '*a',
    '!!int ',
    '|',
    '>',
    '? ',
    '"',
    "'",
    '#',
    '<<',
    '---\n',
    'kind',
    '%',
    '\t',
    '1',
  );
  const text = fc.array(mark, { maxLength: 60 }).map((parts) => parts.join(''));
  fc.assert(fc.property(text, survives), { numRuns: 3000, ...FIXED });
});

test('any value in the place of any other is read or refused', () => {
  const value = fc.jsonValue({ maxDepth: 2 });
  const mutated = fc.tuple(policyObject, value, fc.nat()).map(([object, replacement, chosen]) => {
    const text = textOf(object, 'p');
    let places = 0;
    JSON.parse(text, (_, each) => {
      places++;
      return each;
    });
    let at = 0;
    return JSON.stringify(JSON.parse(text, (_, each) => (at++ === chosen % places ? replacement : each))) ?? 'null';
  });
  fc.assert(fc.property(mutated, survives), { numRuns: 1000, ...FIXED });
});

test('a cut or doubled piece of a good text is read or refused', () => {
  const good = policy(`
ingress:
- fromEndpoints: [{matchLabels: {app: cart}}]
  toPorts:
  - ports: [{port: "80", protocol: TCP}]
egressDeny:
- toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]`);
  const cut = fc.tuple(fc.nat(good.length), fc.nat(good.length), fc.boolean()).map(([a, b, twice]) => {
    const [from, to] = a < b ? [a, b] : [b, a];
    return good.slice(0, from) + (twice ? good.slice(from, to).repeat(2) : '') + good.slice(to);
  });
  fc.assert(fc.property(cut, survives), { numRuns: 1500, ...FIXED });
});

const bombs: readonly (readonly [what: string, text: string])[] = [
  ['brackets', '['.repeat(MAX_TEXT)],
  ['maps in maps', '{a: '.repeat(100_000)],
  ['lists in lists', '- '.repeat(20_000)],
  ['maps in lines', Array.from({ length: 900 }, (_, i) => `${' '.repeat(i)}a:`).join('\n')],
  ['commas', `[${','.repeat(1_000_000)}]`],
  [
    'a billion laughs',
    Array.from(
      { length: 30 },
      (_, i) =>
        `a${i}: &a${i} [${
          i === 0
            ? 'x'
            : Array(9)
                .fill(`*a${i - 1}`)
                .join(',')
        }]`,
    ).join('\n'),
  ],
  ['aliases of a large thing', `a: &a [${'x,'.repeat(20_000)}x]\nb: [${'*a, '.repeat(20_000)}*a]`],
  ['documents', '---\n'.repeat(300_000)],
  ['a text that is too large', ' '.repeat(MAX_TEXT + 1)],
];

for (const [what, text] of bombs) {
  test(`a bomb is refused in time: ${what}`, () => {
    const { objects, error } = parsePolicies(text);
    assert.equal(objects.length, 0);
    assert.match(error?.message ?? '', /nested too deep|too many parts|more than|larger than|call stack/);
  });
}

test('a map with very many keys is read in linear time', () => {
  const labels = Array.from({ length: 20_000 }, (_, i) => `"k${i}": v`).join(', ');
  const { objects } = parsePolicies(policy(`ingress: [{fromEndpoints: [{matchLabels: {${labels}}}]}]`));
  assert.equal(objects[0]?.type, 'policy');
});
