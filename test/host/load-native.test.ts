import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { MeshError } from '../../src/core/errors.ts';
import { assetPath } from '../../src/host/assets.ts';
import { loadFromBytes, native } from '../../src/host/load-native.ts';

const directory = mkdtempSync(join(tmpdir(), 'mesh-native-'));
after(() => rmSync(directory, { recursive: true, force: true }));

test('the module loads once', () => {
  assert.equal(native(), native());
});

test('the module loads from memory, past folders that do not do, and leaves no file behind', () => {
  const bytes = readFileSync(assetPath('native/mesh.node'));
  const loaded = loadFromBytes(bytes, [undefined, '', join(directory, 'missing'), '/proc', directory]);
  assert.equal(typeof loaded.netlinkOpen, 'function');
  assert.deepEqual(readdirSync(directory), []);
});

test('when no folder allows it, the error names each of them', () => {
  const bytes = readFileSync(assetPath('native/mesh.node'));
  assert.throws(
    () => loadFromBytes(bytes, ['/proc', join(directory, 'missing')]),
    (error: unknown) => {
      assert.ok(error instanceof MeshError);
      assert.equal(error.code, 'HST-NATIVE');
      assert.match(error.message, /\/proc: .*missing: /);
      return true;
    },
  );
});

test('a folder that is mounted noexec is passed over', () => {
  const program = `
    import { readFileSync } from 'node:fs';
    import { loadFromBytes } from ${JSON.stringify(join(import.meta.dirname, '../../src/host/load-native.ts'))};
    const bytes = readFileSync(${JSON.stringify(assetPath('native/mesh.node'))});
    try { loadFromBytes(bytes, ['/mnt']); console.log('loaded'); } catch { console.log('refused'); }
    console.log(typeof loadFromBytes(bytes, ['/mnt', ${JSON.stringify(directory)}]).bpf);`;
  const script = 'mount -t tmpfs -o noexec tmpfs /mnt && exec "$0" --input-type=module -e "$1"';
  const result = spawnSync('unshare', ['-m', 'sh', '-c', script, process.execPath, program], { encoding: 'utf8' });
  assert.equal(result.stdout, 'refused\nfunction\n', result.stderr);
});

test('wrong arguments throw and what the kernel refuses is a negative errno', () => {
  const module = native() as unknown as Record<string, (...values: unknown[]) => number>;
  const call = (name: string, ...values: unknown[]): number => (module[name] as (...v: unknown[]) => number)(...values);
  for (const [name, ...values] of [
    ['bpf', 'x', Buffer.alloc(8)],
    ['bpf', 1, 'x'],
    ['bpf', 1, Buffer.alloc(8), 0],
    ['datagramSend', 1, Buffer.alloc(1)],
    ['datagramSend', '/x'],
    ['netlinkOpen', 0],
    ['netlinkOpen', 0, 1],
    ['netlinkSend', 'x', Buffer.alloc(1)],
    ['closeFd'],
  ] as [string, ...unknown[]][]) {
    assert.throws(() => call(name, ...values), TypeError, name);
  }
  const { EBADF, EINVAL, ENAMETOOLONG, E2BIG } = constants.errno;
  assert.equal(call('bpf', 0, Buffer.alloc(8), 4, Buffer.alloc(1)), -EINVAL);
  assert.equal(call('bpf', 0, Buffer.alloc(5000)), -E2BIG);
  assert.equal(call('datagramSend', '', Buffer.alloc(1)), -EINVAL);
  assert.equal(call('datagramSend', `@${'x'.repeat(200)}`, Buffer.alloc(1)), -ENAMETOOLONG);
  for (const name of ['netlinkPortId', 'netlinkClose']) assert.equal(call(name, 4711), -EBADF);
  assert.equal(call('netlinkSend', 4711, Buffer.alloc(1)), -EBADF);
  assert.equal(call('closeFd', 1_000_000), -EBADF);
});
