import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PageCursor } from '../../src/kvstore/page-cursor.ts';

/** A server: sorted keys, and how many of them it looked at. */
function serve(keys: readonly Buffer[], cursor: PageCursor) {
  const sorted = [...keys].sort(Buffer.compare);
  const seen: Buffer[] = [];
  let looked = 0;
  let requests = 0;
  for (let request = cursor.next; request !== undefined; request = cursor.next) {
    const { from, to, limit } = request;
    assert.ok(++requests < 20_000, 'the walk ends');
    assert.ok(Buffer.compare(from, to) < 0, 'a range is never empty');
    const first = sorted.findIndex((key) => Buffer.compare(key, from) >= 0);
    const inRange: Buffer[] = [];
    for (let i = first; i >= 0 && i < sorted.length && Buffer.compare(sorted[i] as Buffer, to) < 0; i++)
      inRange.push(sorted[i] as Buffer);
    const page = inRange.slice(0, limit);
    looked += inRange.length;
    seen.push(...page);
    const bytes = page.reduce((sum, key) => sum + key.length + 200, 0);
    cursor.answered({
      keys: page.length,
      bytes,
      last: page.at(-1),
      more: inRange.length > page.length,
      count: inRange.length,
    });
  }
  return { seen, looked, requests, sorted };
}

const PREFIX = Buffer.from('cilium/state/ip/v1/default/');
const END = Buffer.from('cilium/state/ip/v1/default0');
const below = (rest: Uint8Array | string): Buffer => Buffer.concat([PREFIX, Buffer.from(rest as string)]);

test('every key is seen once, in order, whatever the keys', () => {
  const bytes = fc.uint8Array({ minLength: 1, maxLength: 6 });
  const text = fc.stringMatching(/^[0-9a-f.:/]{1,12}$/);
  const few = fc.uniqueArray(fc.oneof(bytes, text), {
    maxLength: 700,
    selector: (key) => Buffer.from(key as string).toString('hex'),
  });
  fc.assert(
    fc.property(few, (keys) => {
      const { seen, sorted } = serve(keys.map(below), new PageCursor(PREFIX, END));
      assert.deepEqual(
        seen.map((key) => key.toString('hex')),
        sorted.map((key) => key.toString('hex')),
      );
    }),
    { numRuns: 300 },
  );
});

test('the server looks at each key a few times only, although a page is a small part of all', () => {
  const keys: Buffer[] = [];
  for (let i = 0; i < 120_000; i++) keys.push(below(`10.${128 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`));
  for (let i = 0; i < 5000; i++) keys.push(below(`fd00:244:${i.toString(16)}::7`));
  const { seen, looked, requests } = serve(keys, new PageCursor(PREFIX, END));
  assert.equal(seen.length, keys.length);
  assert.ok(looked < keys.length * 8, `${looked} looks at ${keys.length} keys`);
  assert.ok(requests < 250, `${requests} requests`);
});

test('a page that is too large is asked for again with fewer keys, down to one', () => {
  const cursor = new PageCursor(PREFIX, END);
  const limits = [cursor.next?.limit];
  while (cursor.tooLarge()) limits.push(cursor.next?.limit);
  assert.deepEqual(limits, [256, 32, 4, 1]);
});
