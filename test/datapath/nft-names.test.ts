import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CLASS_BIT, classNumber, classOfNumber, identityMark } from '../../src/datapath/nft/names.ts';

test('class numbers are all different, read back, and never those of an identity', () => {
  const seen = new Set<number>();
  for (let n = 0; n < 100_000; n++) {
    const number = classNumber(n);
    assert.ok(number >= CLASS_BIT && number <= 0xffff_ffff && identityMark(number) === 0);
    assert.equal(classOfNumber(number), n);
    seen.add(number);
  }
  assert.equal(seen.size, 100_000);
});

test('the numbers of the first classes read the same from both ends', () => {
  for (let n = 0; n < 32_512; n++) {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(classNumber(n));
    assert.deepEqual([...bytes].reverse(), [...bytes]);
  }
});
