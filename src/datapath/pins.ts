import { lstatSync, mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { MeshError, messageOf } from '../core/errors.ts';
import { BPF_FILE_SYSTEM, hasBpfFileSystem, networkNamespaceCookie } from '../host/bpf/place.ts';

/** Everything of ours in the BPF file system. */
const FOLDER = 'mesh-agent';

/**
 * Where the pins of this network namespace go, since agents in several share one file system: `mesh-agent/<cookie>`. The folder
 * is made by `makePinFolder`. @throws MeshError when pins cannot be kept, or could be exchanged by others
 */
export function pinFolder(fileSystem = BPF_FILE_SYSTEM): string {
  if (!hasBpfFileSystem(fileSystem))
    throw new MeshError('HST-NO-BPF', `no BPF file system is mounted on ${fileSystem}`);
  const own = ownFolder(fileSystem);
  const folder = dirname(own);
  // Everybody may make folders in a file system that was mounted without a word on rights.
  const found = lstatSync(folder, { throwIfNoEntry: false });
  if (found !== undefined && (!found.isDirectory() || found.uid !== process.geteuid?.() || (found.mode & 0o022) !== 0))
    throw new MeshError('HST-NO-BPF', `${folder} is not ours alone: it must be taken away`);
  return own;
}

function ownFolder(fileSystem: string): string {
  return join(fileSystem, FOLDER, String(networkNamespaceCookie()));
}

/** Also where something else is in the way, in our own folders. @throws MeshError */
export function makePinFolder(path: string): void {
  for (const way of [dirname(path), path])
    if (lstatSync(way, { throwIfNoEntry: false })?.isDirectory() === false) rmSync(way);
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    // As a service we may write to `mesh-agent` alone, and not if somebody has taken that away since.
    throw new MeshError('HST-NO-BPF', `${path} cannot be made (${messageOf(error)})`);
  }
}

/** What is pinned in a folder, or the folders in it; none when there is no such folder. */
export function pinsIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Takes pins away: what only they kept goes with them. */
export function removePins(path: string): void {
  rmSync(path, { recursive: true, force: true });
}

/** Takes away folders of ours in which nothing is left, from this one up. */
export function removeEmptyFolders(path: string): void {
  for (let folder = path; folder.includes(`/${FOLDER}`); folder = dirname(folder)) {
    try {
      rmdirSync(folder);
    } catch {
      // Something of others is in it, or it is gone.
      return;
    }
  }
}

/** Takes away a part of what is pinned for this network namespace, whatever it is: that needs no right to use it. */
export function removePart(name: string, fileSystem = BPF_FILE_SYSTEM): void {
  if (!hasBpfFileSystem(fileSystem)) return;
  const folder = ownFolder(fileSystem);
  removePins(join(folder, name));
  removeEmptyFolders(folder);
}

/** Takes away everything that any version of ours has pinned for this network namespace. */
export function removeAllPins(fileSystem = BPF_FILE_SYSTEM): void {
  if (!hasBpfFileSystem(fileSystem)) return;
  const folder = ownFolder(fileSystem);
  removePins(folder);
  removeEmptyFolders(dirname(folder));
}
