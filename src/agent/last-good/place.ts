import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { open, readFile, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshError, messageOf } from '../../core/errors.ts';
import { machineId } from '../../host/machine-id.ts';
import { bootId } from '../../host/process-name.ts';
import { makePrivateFolder, writeFileSafely } from '../../pki/files.ts';
import type { Head } from './content.ts';
import { MAX_BYTES, readHead, refused } from './file.ts';
import { checkHead } from './restored-state.ts';

const HEAD_BYTES = 4096;

/** What is known of a snapshot without reading it whole. */
export interface SnapshotFacts {
  readonly head: Head;
  /** When it was last known to be what the stores say; milliseconds since the epoch. */
  readonly confirmedAt: number;
}

/** `<state>/last-good`: the snapshot, and a note that says that this boot began with it. */
export class LastGoodPlace {
  readonly folder: string;
  readonly file: string;
  readonly #note: string;

  constructor(stateDir: string) {
    this.folder = join(stateDir, 'last-good');
    this.file = join(this.folder, 'snapshot');
    this.#note = join(this.folder, 'restored.json');
  }

  /** Whole, or not at all; 0600. @throws MeshError AGT-LASTGOOD */
  async write(content: AsyncIterable<Buffer>): Promise<void> {
    try {
      await makePrivateFolder(this.folder);
      await writeFileSafely(this.file, content);
    } catch (cause) {
      throw new MeshError('AGT-LASTGOOD', messageOf(cause), { place: this.file, cause });
    }
  }

  /** The facts in the file are still those of the stores: so says the file's time. */
  async confirm(now: number): Promise<void> {
    await utimes(this.file, now / 1000, now / 1000).catch(() => undefined);
  }

  /** Undefined when there is none. @throws MeshError AGT-LASTGOOD */
  async read(): Promise<Buffer | undefined> {
    try {
      const { size } = await stat(this.file);
      if (size > MAX_BYTES) throw refused(`it is too large: ${size} bytes`);
      return await readFile(this.file);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      if (cause instanceof MeshError) throw cause;
      throw new MeshError('AGT-LASTGOOD', messageOf(cause), { place: this.file, cause });
    }
  }

  /** Undefined when there is none that can be understood. */
  async facts(): Promise<SnapshotFacts | undefined> {
    try {
      const file = await open(this.file);
      try {
        const start = Buffer.alloc(HEAD_BYTES);
        const { bytesRead } = await file.read(start, 0, HEAD_BYTES, 0);
        const head = checkHead(readHead(start.subarray(0, bytesRead)));
        return { head, confirmedAt: Math.max(head.savedAt, (await file.stat()).mtimeMs) };
      } finally {
        await file.close();
      }
    } catch {
      return undefined;
    }
  }

  /** Rules of this boot came from the snapshot. */
  async note(at: number): Promise<void> {
    await writeFileSafely(this.#note, JSON.stringify({ at, boot: bootId() }));
  }

  /** When this boot's rules were restored from the snapshot; undefined when they were not, or an agent took over since. */
  restoredAt(): number | undefined {
    try {
      const { at, boot } = JSON.parse(readFileSync(this.#note, 'utf8')) as { at?: unknown; boot?: unknown };
      return boot === bootId() && typeof at === 'number' ? at : undefined;
    } catch {
      return undefined;
    }
  }

  async forgetNote(): Promise<void> {
    await rm(this.#note, { force: true }).catch(() => undefined);
  }
}

/** Tells machines apart, as machine-id(5) wants it: by a hash, never by the id itself. Empty where there is none. */
export function machineMark(): string {
  const id = machineId();
  return id === '' ? '' : createHash('sha256').update(`mesh-agent last-good ${id}`).digest('base64url').slice(0, 16);
}
