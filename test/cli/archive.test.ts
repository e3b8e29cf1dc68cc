import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { archive, type Entry } from '../../src/cli/bundle/archive.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-archive-'));
after(() => rmSync(folder, { recursive: true, force: true }));

async function unpacked(
  entries: readonly Entry[],
  limit: number,
  name = 'b',
): Promise<{ size: number; text(name: string): string }> {
  const pieces: Buffer[] = [];
  const options = { folder: name, entries, limit, entryMs: 500, onEntry: () => undefined, now: Date.now };
  for await (const piece of archive(options)) pieces.push(piece);
  const file = join(folder, 'b.tar.gz');
  writeFileSync(file, Buffer.concat(pieces));
  rmSync(join(folder, name), { recursive: true, force: true });
  execFileSync('tar', ['-xzf', file, '-C', folder]);
  return { size: Buffer.concat(pieces).length, text: (file) => readFileSync(join(folder, name, file), 'utf8') };
}

const noise = (bytes: number): string =>
  randomBytes(bytes)
    .toString('latin1')
    .replaceAll(/[^\x20-\x7e]/g, '~');

test('an archive is never larger than its limit; what is cut or left out says so', async () => {
  const entries: Entry[] = Array.from({ length: 12 }, (_, index) => ({
    name: `part-${index}.txt`,
    read: () => [noise(150_000), noise(150_000)],
  }));
  const limit = 600_000;
  const { size, text } = await unpacked(entries, limit);
  assert.ok(size <= limit, `${size}`);
  assert.equal(text('part-0.txt').length, 300_000);
  assert.match(text('omitted.txt'), /part-11\.txt/);
});

test('a list that never ends, and one that never begins, do not hold the others up', async () => {
  const { text } = await unpacked(
    [
      {
        name: 'endless.txt',
        *read() {
          for (;;) yield 'x'.repeat(1 << 16);
        },
      },
      {
        name: 'silent.txt',
        async *read() {
          yield 'begun';
          await new Promise(() => undefined);
        },
      },
      {
        name: 'broken.txt',
        *read() {
          yield 'some';
          throw new Error('it broke');
        },
      },
      { name: 'last.txt', read: () => ['fine'] },
    ],
    32 << 20,
  );
  assert.match(text('endless.txt'), /\[cut: there is more than fits\]\n$/);
  assert.equal(text('silent.txt'), 'begun\n[cut: it took too long]\n');
  assert.equal(text('broken.txt'), 'some\n[it broke]\n');
  assert.equal(text('last.txt'), 'fine');
});

test('the names of all files are whole, however long the name of the host is', async () => {
  const host = `mesh-agent-bundle-${'h'.repeat(64)}-20261124T100000Z`;
  const names = ['kernel/ipcache.ndjson', 'kernel/ipcache.nft', 'log.txt'];
  const entries = names.map((name): Entry => ({ name, read: () => [name] }));
  const { text } = await unpacked(entries, 1 << 20, host);
  for (const name of names) assert.equal(text(name), name);
});
