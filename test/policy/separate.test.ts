import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parsePolicies } from '../../src/policy/language/parse.ts';
import { separatePolicies } from '../../src/policy/language/separate.ts';
import { policyObject, textOf } from './scenario.ts';

const CNP = (name: string): string =>
  `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: ${name}, namespace: shop}\nspec: {endpointSelector: {}, ingress: [{}]}\n`;

test('each object of a text stands alone as a text that says the same', () => {
  const texts = fc.array(policyObject, { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(texts, (objects) => {
      const text = objects.map((object, index) => textOf(object, `p${index}`)).join('\n---\n');
      const together = parsePolicies(text).objects;
      const apart = separatePolicies(text).objects;
      assert.equal(apart.length, together.length);
      for (const { object, text: own } of apart) {
        const [alone, ...more] = parsePolicies(own).objects;
        assert.equal(more.length, 0);
        assert.equal(alone?.type, object.type);
        if (alone?.type !== 'policy' || object.type !== 'policy') continue;
        assert.deepEqual(
          alone.rules.map(({ display }) => display),
          object.rules.map(({ display }) => display),
        );
      }
    }),
    { numRuns: 200, seed: 20_261_125 },
  );
});

test('lists, several documents and anchors are taken apart; places in the parts can be named', () => {
  const list = `kind: List\nitems:\n- ${CNP('a').replaceAll('\n', '\n  ')}\n- ${CNP('b').replaceAll('\n', '\n  ')}`;
  const names = (text: string): unknown[] => separatePolicies(text).objects.map(({ object }) => object.policy);
  assert.deepEqual(names(`${CNP('x')}---\n${list}\n---\n# nothing\n`), [
    'CiliumNetworkPolicy/shop/x',
    'CiliumNetworkPolicy/shop/a',
    'CiliumNetworkPolicy/shop/b',
  ]);
  const [shared] = separatePolicies(
    `&x {endpointSelector: &s {matchLabels: {a: "1"}}, ingress: [{fromEndpoints: [*s]}]}`,
  ).objects;
  assert.match(shared?.text ?? '', /"fromEndpoints": \[\n +\{\n +"matchLabels"/);
  const [bad] = separatePolicies(CNP('bad').replace('ingress', 'ingres')).objects;
  assert.equal(bad?.object.type, 'bad');
});

test('what cannot be read is an error, never an exception', () => {
  for (const text of ['a: [', '\u0000', '- - -\n a: b\n: :', '{"__proto__": {"kind": "x"}}']) {
    const { objects, error } = separatePolicies(text);
    assert.ok(error !== undefined || objects.every(({ object }) => object.type === 'bad'), text);
  }
});
