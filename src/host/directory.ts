import { createHash } from 'node:crypto';
import { type FSWatcher, watch } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '../core/job.ts';

/** A directory of small files that an operator edits while we run. */
export interface DirectoryOptions {
  readonly path: string;
  /** Which names are read; all others are not even opened. */
  readonly accept: (name: string) => boolean;
  /** A larger file is reported by `onUnreadable` and not read. */
  readonly maxBytes: number;
  /** Called when a file appears and when its content (SHA-256) changes. */
  readonly onFile: (name: string, content: Buffer) => void;
  readonly onGone: (name: string) => void;
  /** A file, or with an empty name the directory, that cannot be read. What was read before stays in force. */
  readonly onUnreadable: (name: string, error: unknown) => void;
  /** The safety net under inotify, milliseconds. */
  readonly pollMs?: number;
}

export interface WatchedDirectory {
  /** Resolves when every file that was there at the start has been handed out. */
  readonly first: Promise<void>;
  close(): void;
}

/** Editors write a file in several steps: wait until they are done. */
const SETTLE_MS = 50;

/**
 * Hands out the files of a directory, then every change. A missing directory is an empty one until it appears.
 * Sub-directories are skipped; symbolic links to files are followed (projected secrets are links).
 */
export function watchDirectory(options: DirectoryOptions): WatchedDirectory {
  const hashes = new Map<string, string>();
  let watcher: FSWatcher | undefined;
  let settle: NodeJS.Timeout | undefined;
  let closed = false;
  let running: Promise<void> = Promise.resolve();

  const scan = (): Promise<void> => {
    running = running.then(async () => {
      if (closed) return;
      watcher ??= openWatcher();
      await readAll(options, hashes, () => closed);
    });
    return running;
  };
  const soon = (): void => {
    clearTimeout(settle);
    if (!closed) settle = setTimeout(() => void scan(), SETTLE_MS);
  };
  const openWatcher = (): FSWatcher | undefined => {
    try {
      const opened = watch(options.path, soon);
      // The directory itself was removed or unmounted: the poll opens a new watch when it is back.
      opened.on('error', () => {
        opened.close();
        watcher = undefined;
      });
      return opened;
    } catch {
      return undefined;
    }
  };

  const poll = setInterval(() => void scan(), options.pollMs ?? 10_000);
  return {
    first: scan(),
    close() {
      closed = true;
      clearInterval(poll);
      clearTimeout(settle);
      watcher?.close();
    },
  };
}

async function readAll(options: DirectoryOptions, hashes: Map<string, string>, closed: () => boolean): Promise<void> {
  const names = await readNames(options);
  if (names === undefined) return;
  for (const name of names) {
    const content = await readOne(options, name);
    if (closed()) return;
    if (content === undefined) continue;
    const hash = createHash('sha256').update(content).digest('base64');
    if (hashes.get(name) === hash) continue;
    hashes.set(name, hash);
    options.onFile(name, content);
  }
  for (const name of [...hashes.keys()]) {
    if (names.includes(name)) continue;
    hashes.delete(name);
    options.onGone(name);
  }
}

async function readNames(options: DirectoryOptions): Promise<string[] | undefined> {
  try {
    const entries = await readdir(options.path, { withFileTypes: true });
    return entries.filter((entry) => !entry.isDirectory() && options.accept(entry.name)).map((entry) => entry.name).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    options.onUnreadable('', error);
    return undefined;
  }
}

/**
 * A file that was written just now may be half written: reading on would take a truncated policy for a policy. A writer
 * that pauses for longer than this between two writes is seen in between; those who rename into place never are.
 */
async function readSettled(file: FileHandle, maxBytes: number): Promise<Buffer> {
  for (;;) {
    const before = await file.stat();
    const age = Date.now() - before.mtimeMs;
    if (age >= 0 && age < SETTLE_MS) {
      await sleep(SETTLE_MS - age);
      continue;
    }
    if (before.size > maxBytes) throw new Error(`file has ${before.size} bytes, more than the ${maxBytes} that are read`);
    const content = Buffer.alloc(before.size);
    const { bytesRead } = await file.read(content, 0, before.size, 0);
    const after = await file.stat();
    const untouched = after.mtimeMs === before.mtimeMs && after.size === before.size;
    if (untouched && bytesRead === before.size) return content;
  }
}

async function readOne(options: DirectoryOptions, name: string): Promise<Buffer | undefined> {
  try {
    const file = await open(join(options.path, name));
    try {
      return await readSettled(file, options.maxBytes);
    } finally {
      await file.close();
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // EISDIR: a link to a directory. ENOENT: gone between listing and reading; the next scan sees it.
    if (code !== 'EISDIR' && code !== 'ENOENT') options.onUnreadable(name, error);
    return undefined;
  }
}
