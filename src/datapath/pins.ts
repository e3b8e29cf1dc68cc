import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '../core/errors.ts';
import { BPF_FILE_SYSTEM, hasBpfFileSystem, networkNamespaceCookie } from '../host/bpf/place.ts';

/** Everything of ours in the BPF file system. */
const FOLDER = 'mesh-agent';

/**
 * Where the pins of this network namespace go, since agents in several share one file system: `mesh-agent/<cookie>`. The folder
 * is made by `makePinFolder`. @throws MeshError when pins cannot be kept
 */
export function pinFolder(fileSystem = BPF_FILE_SYSTEM): string {
  if (!hasBpfFileSystem(fileSystem))
    throw new MeshError('HST-NO-BPF', `no BPF file system is mounted on ${fileSystem}`);
  return join(fileSystem, FOLDER, String(networkNamespaceCookie()));
}

export function makePinFolder(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
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

/** Takes away everything that any version of ours has pinned for this network namespace. */
export function removeAllPins(fileSystem = BPF_FILE_SYSTEM): void {
  if (hasBpfFileSystem(fileSystem)) removePins(pinFolder(fileSystem));
}
