import { randomBytes } from 'node:crypto';
import { chmod, lstat, mkdir, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { MeshError, messageOf } from '../core/errors.ts';

/**
 * Writes a file so that there is always the old or the new one, whole, also after a power cut, and never with wider
 * rights than asked for: a new file beside it, synced, renamed over it. 0600 unless said otherwise.
 * @throws MeshError PKI-FILE
 */
export async function writeFileSafely(
  path: string,
  content: string | Buffer | AsyncIterable<Buffer>,
  mode = 0o600,
): Promise<void> {
  const beside = join(dirname(path), `.${basename(path)}.${randomBytes(4).toString('hex')}`);
  try {
    const file = await open(beside, 'wx', mode);
    try {
      await file.writeFile(content);
      // The mask of this process must neither widen nor narrow it.
      await file.chmod(mode);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
    await syncFolder(dirname(path));
  } catch (cause) {
    await rm(beside, { force: true }).catch(() => {});
    throw new MeshError('PKI-FILE', messageOf(cause), { place: path, cause });
  }
}

/** A folder for its owner alone, with the folders above it. @throws MeshError PKI-FILE */
export async function makePrivateFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    if (!(await lstat(path)).isDirectory()) throw new Error('it is not a folder');
    await chmod(path, 0o700);
    await syncFolder(dirname(path));
  } catch (cause) {
    throw new MeshError('PKI-FILE', messageOf(cause), { place: path, cause });
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
