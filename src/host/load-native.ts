import { closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs';
import { constants as osConstants } from 'node:os';
import { MeshError, messageOf } from '../core/errors.ts';
import { assetPath, isInsideExecutable } from './assets.ts';
import type { Native } from './native.ts';

// Node has no name for it. O_DIRECTORY differs between machine types.
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;

let loaded: Native | undefined;

/** The native module, loaded at the first call. Throws HST-NATIVE. */
export function native(): Native {
  loaded ??= load(assetPath('native/mesh.node'));
  return loaded;
}

function load(path: string): Native {
  if (isInsideExecutable(path)) return loadFromBytes(readFileSync(path));
  try {
    return open(path);
  } catch (error) {
    throw new MeshError('HST-NATIVE', messageOf(error), { place: path, cause: error });
  }
}

function open(path: string): Native {
  const module: { exports: Native | object } = { exports: {} };
  process.dlopen(module, path, osConstants.dlopen.RTLD_NOW);
  return module.exports as Native;
}

/**
 * Loads a module that no file name leads to: an unnamed file cannot be swapped by anyone and leaves nothing behind.
 * Folders that are missing, read-only or mounted noexec are passed over.
 */
export function loadFromBytes(bytes: Buffer, folders: readonly (string | undefined)[] = loadFolders()): Native {
  const failures: string[] = [];
  for (const folder of folders) {
    if (folder === undefined || folder === '') continue;
    let fd: number | undefined;
    try {
      fd = openSync(folder, O_TMPFILE | constants.O_RDWR, 0o500);
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
      return open(`/proc/self/fd/${fd}`);
    } catch (error) {
      failures.push(`${folder}: ${messageOf(error)}`);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }
  throw new MeshError('HST-NATIVE', failures.join('; '));
}

function loadFolders(): (string | undefined)[] {
  // systemd joins several folders with a colon.
  const first = (name: string): string | undefined => process.env[name]?.split(':')[0];
  return [first('RUNTIME_DIRECTORY'), first('STATE_DIRECTORY'), '/dev/shm', '/var/tmp', '/tmp'];
}
