import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { releaseProgram } from '../../src/host/memory.ts';

/** Resident pages of files, in kB. */
function ofFiles(): number {
  return Number(/RssFile:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
}

test('what the start needed of the program is given back, and the program goes on', () => {
  const before = ofFiles();
  releaseProgram();
  const after = ofFiles();
  assert.ok(after < before * 0.8, `${before} kB before, ${after} kB after`);
  // Code that was let go of: compiled, collected, thrown, formatted.
  assert.equal(JSON.stringify([1, { two: 2n.toString() }]), '[1,{"two":"2"}]');
  assert.throws(() => new Function('return (')(), SyntaxError);
  assert.equal(new Intl.NumberFormat('en').format(1_234_567), '1,234,567');
});
