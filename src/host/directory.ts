import { createHash } from 'node:crypto';
import { type FSWatcher, watch } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
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
  /** What `onUnreadable` told is over: it can be read again, or it is gone. */
  readonly onReadable?: (name: string) => void;
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
  const known: Known = { hashes: new Map(), unreadable: new Set() };
  let watcher: FSWatcher | undefined;
  let settle: NodeJS.Timeout | undefined;
  let closed = false;
  let running: Promise<void> = Promise.resolve();

  const scan = (): Promise<void> => {
    running = running.then(async () => {
      if (closed) return;
      watcher ??= openWatcher();
      await readAll(options, known, () => closed);
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

interface Known {
  readonly hashes: Map<string, string>;
  /** Files that could not be read at the last look; the empty name is the directory. */
  readonly unreadable: Set<string>;
}

async function readAll(options: DirectoryOptions, { hashes, unreadable }: Known, closed: () => boolean): Promise<void> {
  const failed = new Set<string>();
  const looked = {
    ...options,
    onUnreadable: (name: string, error: unknown): void => {
      failed.add(name);
      unreadable.add(name);
      if (!closed()) options.onUnreadable(name, error);
    },
  };
  const names = await readNames(looked);
  if (names === undefined) return;
  // All at once, so that many files do not add up their pauses.
  const reads = await Promise.all(names.map((name) => readSettled(looked, name, hashes.get(name))));
  if (closed()) return;
  for (const name of [...unreadable]) {
    if (failed.has(name)) continue;
    unreadable.delete(name);
    options.onReadable?.(name);
  }
  for (const [index, name] of names.entries()) {
    const read = reads[index];
    if (read === undefined || read.hash === hashes.get(name)) continue;
    hashes.set(name, read.hash);
    options.onFile(name, read.content);
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
    return entries
      .filter((entry) => !entry.isDirectory() && options.accept(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    options.onUnreadable('', error);
    return undefined;
  }
}

/**
 * A file may be half written when it is read, and a truncated policy must not be taken for a policy. So new content counts
 * only when a second look after a pause finds the same. A writer that pauses for longer than that is seen in between;
 * one that renames into place never is.
 */
async function readSettled(
  options: DirectoryOptions,
  name: string,
  known: string | undefined,
): Promise<Read | undefined> {
  let read = await readOne(options, name);
  for (;;) {
    if (read === undefined || read.hash === known) return read;
    await sleep(SETTLE_MS);
    const again = await readOne(options, name);
    if (again?.hash === read.hash) return again;
    read = again;
  }
}

interface Read {
  readonly content: Buffer;
  readonly hash: string;
}

async function readOne(options: DirectoryOptions, name: string): Promise<Read | undefined> {
  try {
    const file = await open(join(options.path, name));
    try {
      const { size } = await file.stat();
      if (size > options.maxBytes)
        throw new Error(`file has ${size} bytes, more than the ${options.maxBytes} that are read`);
      const content = await file.readFile();
      return { content, hash: createHash('sha256').update(content).digest('base64') };
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
