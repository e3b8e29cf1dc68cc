import { openSync } from 'node:fs';
import { MeshError, messageOf } from '../core/errors.ts';

/**
 * A file that the log is appended to, 0600: lines may name what others should not know. Whoever rotates it copies and
 * truncates it, or moves it away and opens it anew. @throws MeshError OBS-LOG
 */
export function openLogFile(path: string): number {
  try {
    return openSync(path, 'a', 0o600);
  } catch (cause) {
    throw new MeshError('OBS-LOG', messageOf(cause), { place: path, cause });
  }
}
