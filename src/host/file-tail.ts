import { type FileHandle, open } from 'node:fs/promises';
import { StringDecoder } from 'node:string_decoder';
import { sleep } from '../core/job.ts';

export interface FileTailOptions {
  readonly follow: boolean;
  readonly signal?: AbortSignal;
  /** Of a long file only the end is read, bytes. */
  readonly maxBytes?: number;
  /** For tests, milliseconds. */
  readonly pollMs?: number;
}

const CHUNK = 64 << 10;
const MAX_BYTES = 64 << 20;
const MAX_LINE = 1 << 20;
const POLL_MS = 250;

/**
 * The lines of a file that is being written; `undefined` once, when all that was there has been read. Followed, it goes
 * on with what is appended, also after the file was truncated or replaced. Rejects when it cannot be opened.
 */
export async function* tailFile(path: string, options: FileTailOptions): AsyncGenerator<string | undefined> {
  let file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const maxBytes = options.maxBytes ?? MAX_BYTES;
    const reader = new LineReader(file, Math.max(0, size - maxBytes));
    yield* reader.lines();
    yield undefined;
    while (options.follow && options.signal?.aborted !== true) {
      await sleep(options.pollMs ?? POLL_MS, options.signal);
      const next = await replacement(path, file);
      yield* reader.lines();
      if (next === undefined) continue;
      await file.close();
      file = next;
      reader.become(next);
    }
  } finally {
    await file.close();
  }
}

/** The file that has taken the place of this one. */
async function replacement(path: string, file: FileHandle): Promise<FileHandle | undefined> {
  const next = await open(path, 'r').catch(() => undefined);
  if (next === undefined) return undefined;
  const [now, before] = [await next.stat(), await file.stat()];
  if (now.ino !== before.ino || now.dev !== before.dev) return next;
  await next.close();
  return undefined;
}

class LineReader {
  readonly #chunk = Buffer.alloc(CHUNK);
  #file: FileHandle;
  #at: number;
  #decoder = new StringDecoder('utf8');
  #rest = '';
  /** The first line is cut: its beginning was not read. */
  #cut: boolean;

  constructor(file: FileHandle, at: number) {
    this.#file = file;
    this.#at = at;
    this.#cut = at > 0;
  }

  become(file: FileHandle): void {
    this.#file = file;
    this.#restart();
  }

  async *lines(): AsyncGenerator<string> {
    if ((await this.#file.stat()).size < this.#at) this.#restart();
    for (;;) {
      const { bytesRead } = await this.#file.read(this.#chunk, 0, CHUNK, this.#at);
      if (bytesRead === 0) return;
      this.#at += bytesRead;
      const lines = (this.#rest + this.#decoder.write(this.#chunk.subarray(0, bytesRead))).split('\n');
      this.#rest = (lines.pop() ?? '').slice(0, MAX_LINE);
      for (const line of lines) {
        if (!this.#cut) yield line;
        this.#cut = false;
      }
    }
  }

  #restart(): void {
    this.#at = 0;
    this.#rest = '';
    this.#cut = false;
    this.#decoder = new StringDecoder('utf8');
  }
}
