import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';

/** The floors of docs/architecture.md, from the top; rooms in one entry do not import each other. */
const FLOORS = [
  ['cli'],
  ['agent', 'hub'],
  ['doctor'],
  ['api'],
  ['datapath'],
  ['policy', 'service'],
  ['mesh'],
  ['kvstore'],
  ['host', 'config', 'observe', 'pki'],
];
const ROOMS = [...FLOORS.flat(), 'core'];
const PROGRAM_STARTERS = ['host', 'datapath'];
const root = join(import.meta.dirname, '../..');

interface Probe {
  readonly file: string;
  readonly source: string;
  readonly legal: boolean;
}

function floorOf(room: string): number {
  return room === 'core' ? FLOORS.length : FLOORS.findIndex((rooms) => rooms.includes(room));
}

function probes(): Probe[] {
  const result: Probe[] = [];
  const add = (room: string, name: string, from: string, legal: boolean): void => {
    result.push({ file: `src/${room}/${name}.ts`, source: `export { a } from '${from}';\n`, legal });
  };
  for (const room of ROOMS) {
    for (const other of ROOMS) {
      if (other === room) continue;
      const legal = floorOf(other) > floorOf(room);
      add(room, `to-${other}`, `../${other}/part.ts`, legal);
      add(room, `deep/to-${other}`, `../../${other}/inner/part.ts`, legal);
    }
    add(room, 'to-own', './part.ts', true);
    add(room, 'to-main', '../main.ts', false);
    add(room, 'to-program', 'node:child_process', PROGRAM_STARTERS.includes(room));
    add(room, 'to-builtin', 'node:path', room !== 'core');
    add(room, 'to-package', 'zod', room !== 'core');
  }
  return result;
}

/** The files in which the linter sees a forbidden import. */
function refused(directory: string): Set<string> {
  const biome = join(root, 'node_modules/@biomejs/biome/bin/biome');
  const args = [biome, 'lint', '--only=style/noRestrictedImports', '--reporter=json', '--max-diagnostics=none', 'src'];
  const result = spawnSync(process.execPath, args, { cwd: directory, encoding: 'utf8', maxBuffer: 1 << 26 });
  const report = JSON.parse(result.stdout) as { diagnostics: { category: string; location: { path: string } }[] };
  for (const diagnostic of report.diagnostics) assert.equal(diagnostic.category, 'lint/style/noRestrictedImports');
  return new Set(report.diagnostics.map((diagnostic) => diagnostic.location.path));
}

const directory = mkdtempSync(join(tmpdir(), 'mesh-boundaries-'));
let found: Set<string>;

before(() => {
  copyFileSync(join(root, 'biome.json'), join(directory, 'biome.json'));
  for (const { file, source } of probes()) {
    mkdirSync(dirname(join(directory, file)), { recursive: true });
    writeFileSync(join(directory, file), source);
  }
  writeFileSync(join(directory, 'src/main.ts'), "export { a } from './cli/part.ts';\n");
  found = refused(directory);
});

after(() => rmSync(directory, { recursive: true, force: true }));

for (const room of ROOMS) {
  test(`${room} imports only rooms below it`, () => {
    for (const probe of probes().filter(({ file }) => file.startsWith(`src/${room}/`))) {
      assert.equal(!found.has(probe.file), probe.legal, `${probe.file}: ${probe.source}`);
    }
  });
}

test('the entry imports the command line', () => {
  assert.ok(!found.has('src/main.ts'));
});
