import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import type { Program } from '../lab/daemon.ts';

const BUILDS = join(import.meta.dirname, 'builds');
const ROOT = join(import.meta.dirname, '../..');

/** Names of the builds that are saved here, the newest last. */
export function savedBuilds(): string[] {
  const names = readdirSync(BUILDS).sort();
  if (names.length < 2) throw new Error(`two builds are to be saved in ${BUILDS}`);
  return names;
}

/**
 * Unpacks what `scripts/save-build.sh` saved. The native module is ours: its functions have not changed since. A hub of it reads
 * SKEW_CERTIFICATE_SECONDS when `certificateSeconds` is given.
 */
export function unpackBuild(name: string, folder: string, certificateSeconds?: number): Program {
  mkdirSync(join(folder, 'native'), { recursive: true });
  const file = join(folder, 'main.cjs');
  writeFileSync(file, brotliDecompressSync(readFileSync(join(BUILDS, name))));
  copyFileSync(join(ROOT, 'dist/native/mesh.node'), join(folder, 'native/mesh.node'));
  copyFileSync(join(ROOT, 'install.sh'), join(folder, 'install.sh'));
  const run: Program = [process.execPath, '--no-warnings', file];
  return certificateSeconds === undefined ? run : ['env', `SKEW_CERTIFICATE_SECONDS=${certificateSeconds}`, ...run];
}
