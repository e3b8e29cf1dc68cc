import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

const root = join(import.meta.dirname, '../..');
const dist = mkdtempSync(join(tmpdir(), 'mesh-executable-'));
const executable = join(dist, 'mesh-agent');

function buildAll(): string {
  const env = {
    ...process.env,
    MESH_AGENT_DIST: dist,
    MESH_AGENT_ENTRY: 'test/host/executable-entry.ts',
    MESH_AGENT_COMMIT: '0123456789ab',
    SOURCE_DATE_EPOCH: '1700000000',
  };
  const result = spawnSync(join(root, 'scripts/build.sh'), [], { encoding: 'utf8', env });
  assert.equal(result.status, 0, result.stdout + result.stderr);
  return result.stdout;
}

before(() => buildAll());
after(() => rmSync(dist, { recursive: true, force: true }));

function check(command: string, args: string[]): void {
  const result = spawnSync(command, args, { encoding: 'utf8', cwd: '/', env: {} });
  assert.equal(result.status, 0, result.stderr);
  const facts = JSON.parse(result.stdout) as { build: { version: string; commit: string; date: string }; send: number };
  assert.match(facts.build.version, /^\d+\.\d+\.\d+/);
  assert.equal(facts.build.commit, '0123456789ab');
  assert.equal(facts.build.date, '2023-11-14T22:13:20Z');
  assert.equal(facts.send, -constants.errno.ECONNREFUSED);
}

test('the executable runs with an empty environment and has the native module inside', () => {
  check(executable, []);
});

test('the bundle alone runs beside its native module', () => {
  check(process.execPath, [join(dist, 'main.cjs')]);
});

test('a second build of the same source leaves the executable as it is', () => {
  const first = statSync(executable).mtimeMs;
  assert.doesNotMatch(buildAll(), /mesh-agent$/m);
  assert.equal(statSync(executable).mtimeMs, first);
});
