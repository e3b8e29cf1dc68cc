import { join } from 'node:path';
import { MeshError } from '../core/errors.ts';
import { lockFile } from '../host/lock-file.ts';
import type { HubFolder } from './folder.ts';

/** One process at a time works in a hub's folder. @returns gives it back @throws MeshError HUB-RUNNING */
export function lockHub(folder: HubFolder): () => void {
  const unlock = lockFile(join(folder.path, 'lock'));
  if (unlock === undefined) throw new MeshError('HUB-RUNNING', '', { place: folder.path });
  return unlock;
}
