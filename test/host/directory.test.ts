import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep } from '../../src/core/job.ts';
import { watchDirectory } from '../../src/host/directory.ts';

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, 'condition not met within 5 s');
    await sleep(10);
  }
}

test('files appear, change, and vanish while the directory is watched; a bad one keeps its last content', async (t) => {
  const root = await mkdtemp(join(tmpdir(), 'mesh-directory-'));
  const path = join(root, 'policies.d');
  const files = new Map<string, string>();
  const unreadable: string[] = [];
  const watched = watchDirectory({
    path,
    accept: (name) => name.endsWith('.yaml'),
    maxBytes: 100,
    pollMs: 50,
    onFile: (name, content) => files.set(name, content.toString()),
    onGone: (name) => files.delete(name),
    onUnreadable: (name) => unreadable.push(name),
  });
  t.after(async () => {
    watched.close();
    await rm(root, { recursive: true });
  });

  await watched.first;
  assert.equal(files.size, 0, 'a missing directory is an empty one');
  await mkdir(path);
  await writeFile(join(path, 'a.yaml'), '1');
  await writeFile(join(path, 'ignored.txt'), '1');
  await mkdir(join(path, 'folder.yaml'));
  await until(() => files.get('a.yaml') === '1');
  await writeFile(join(path, 'new'), '2');
  await rename(join(path, 'new'), join(path, 'a.yaml'));
  await symlink('a.yaml', join(path, 'link.yaml'));
  await until(() => files.get('a.yaml') === '2' && files.get('link.yaml') === '2');
  await writeFile(join(path, 'a.yaml'), 'x'.repeat(101));
  await until(() => unreadable.includes('a.yaml'));
  assert.equal(files.get('a.yaml'), '2');
  await rm(path, { recursive: true });
  await until(() => files.size === 0);
});
