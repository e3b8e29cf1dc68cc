import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { tailFile } from '../../src/host/file-tail.ts';
import { until } from '../lab/namespace.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-tail-'));
after(() => rmSync(folder, { recursive: true, force: true }));

async function all(lines: AsyncIterable<string | undefined>): Promise<(string | undefined)[]> {
  const found: (string | undefined)[] = [];
  for await (const line of lines) found.push(line);
  return found;
}

test('a file is read to its end, and of a long one its end alone, from a whole line on', async () => {
  const path = join(folder, 'long');
  writeFileSync(path, Array.from({ length: 10_000 }, (_, i) => `line ${i} äöü\n`).join(''));
  const whole = await all(tailFile(path, { follow: false }));
  assert.equal(whole.length, 10_001);
  assert.equal(whole.at(-1), undefined);
  assert.equal(whole.at(-2), 'line 9999 äöü');
  const end = await all(tailFile(path, { follow: false, maxBytes: 1000 }));
  assert.ok(end.length > 10 && end.length < 100, `${end.length}`);
  assert.match(end[0] ?? '', /^line 99[0-9]{2} äöü$/);
  await assert.rejects(all(tailFile(join(folder, 'none'), { follow: false })), /ENOENT/);
});

test('a file that is followed may grow in pieces, be truncated, and be replaced', async () => {
  const path = join(folder, 'log');
  writeFileSync(path, 'one\n');
  const seen: string[] = [];
  const stop = new AbortController();
  const reading = (async () => {
    for await (const line of tailFile(path, { follow: true, signal: stop.signal, pollMs: 10 }))
      seen.push(line ?? '(now)');
  })();
  const has = (count: number) => until(`${count} lines`, () => seen.length >= count);
  await has(2);
  appendFileSync(path, 'tw');
  await new Promise((resolve) => setTimeout(resolve, 50));
  appendFileSync(path, 'o\n');
  await has(3);
  truncateSync(path);
  await new Promise((resolve) => setTimeout(resolve, 50));
  appendFileSync(path, 'three\n');
  await has(4);
  renameSync(path, `${path}.1`);
  appendFileSync(`${path}.1`, 'last of the old\n');
  writeFileSync(path, 'four\n');
  await has(6);
  stop.abort();
  await reading;
  assert.deepEqual(seen, ['one', '(now)', 'two', 'three', 'last of the old', 'four']);
});
