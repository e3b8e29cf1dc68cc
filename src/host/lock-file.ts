import { randomBytes } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { lives, nameOf, parseName } from './process-name.ts';

/**
 * Takes a file as the mark that this process alone uses what is beside it. A mark of a process that is gone does not count.
 * @returns gives it back; undefined when another process that runs has it
 */
export function lockFile(path: string): (() => void) | undefined {
  const own = JSON.stringify(nameOf(process.pid));
  const beside = `${path}.${randomBytes(4).toString('hex')}`;
  writeFileSync(beside, own, { mode: 0o600, flag: 'wx' });
  try {
    for (let tries = 0; tries < 10; tries++) {
      if (take(beside, path)) return () => giveBack(path, own);
      const found = read(path);
      if (found === undefined) continue;
      const name = parseName(found);
      if (name !== undefined && lives(name)) return undefined;
      // Another one may take the place of the dead at this moment: what is moved away must be what was read.
      const aside = `${beside}.old`;
      try {
        renameSync(path, aside);
      } catch {
        continue;
      }
      if (read(aside) !== found) take(aside, path);
      rmSync(aside, { force: true });
    }
    return undefined;
  } finally {
    rmSync(beside, { force: true });
  }
}

function take(from: string, path: string): boolean {
  try {
    linkSync(from, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function giveBack(path: string, own: string): void {
  if (read(path) === own) rmSync(path, { force: true });
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
