import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { MeshError } from '../../src/core/errors.ts';
import { makePrivateFolder, writeFileSafely } from '../../src/pki/files.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-files-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const mode = (path: string): string => (statSync(path).mode & 0o777).toString(8);

test('a key is for its owner alone, whatever the mask of the process, and replaces one that was open to all', async () => {
  const path = join(folder, 'a.key');
  writeFileSync(path, 'old', { mode: 0o644 });
  const mask = process.umask(0);
  try {
    await writeFileSafely(path, 'new');
  } finally {
    process.umask(mask);
  }
  assert.equal(readFileSync(path, 'utf8'), 'new');
  assert.equal(mode(path), '600');
  assert.deepEqual(readdirSync(folder), ['a.key']);
});

test('a write that fails leaves the old file and nothing beside it', async () => {
  const path = join(folder, 'taken');
  await makePrivateFolder(join(path, 'inner'));
  await assert.rejects(writeFileSafely(path, 'new'), (error: MeshError) => error.code === 'PKI-FILE');
  assert.deepEqual(readdirSync(folder).sort(), ['a.key', 'taken']);
  await assert.rejects(writeFileSafely(join(folder, 'missing/x'), 'new'), MeshError);
});

test('a folder is closed to others, also when it was there and open', async () => {
  const path = join(folder, 'b/c');
  await makePrivateFolder(path);
  assert.deepEqual([mode(join(folder, 'b')), mode(path)], ['700', '700']);
  await assert.rejects(makePrivateFolder(join(folder, 'a.key')), (error: MeshError) => error.code === 'PKI-FILE');
});
