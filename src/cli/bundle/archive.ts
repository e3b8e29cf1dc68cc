import { once } from 'node:events';
import { createGzip } from 'node:zlib';
import { messageOf } from '../../core/errors.ts';
import { redactText } from '../../observe/redact.ts';
import { TAR_END, tarFile } from './tar.ts';

/** One file of the bundle. */
export interface Entry {
  readonly name: string;
  /** Pieces of its text; they are read as far as there is room. May throw: then the reason takes the place of the rest. */
  read(): AsyncIterable<string> | Iterable<string>;
}

export interface ArchiveOptions {
  /** Name of the folder in the archive. */
  readonly folder: string;
  readonly entries: readonly Entry[];
  /** Bytes of the whole archive, at most. */
  readonly limit: number;
  /** For one entry, milliseconds. */
  readonly entryMs: number;
  readonly onEntry: (name: string) => void;
  readonly now: () => number;
}

/** Bytes of one file, before compression. */
const MAX_ENTRY = 8 << 20;
/** What does not fit is named at the end, and that must fit. */
const RESERVE = 64 << 10;
const CUT = '\n[cut: there is more than fits]\n';
const LATE = '\n[cut: it took too long]\n';

/**
 * A compressed archive, piece by piece. Every text is redacted here, whoever made it. Incompressible content is what it is
 * before compression and a few bytes: so what an entry may have is limited by what is left, and the limit is kept.
 */
export async function* archive(options: ArchiveOptions): AsyncGenerator<Buffer> {
  const gzip = createGzip({ level: 6 });
  const pieces: Buffer[] = [];
  let written = 0;
  gzip.on('data', (piece: Buffer) => {
    pieces.push(piece);
    written += piece.length;
  });
  const put = async (data: Buffer): Promise<void> => {
    await new Promise<void>((resolve, reject) => gzip.write(data, (error) => (error ? reject(error) : resolve())));
    // Otherwise what was compressed is known only much later.
    await new Promise<void>((resolve) => gzip.flush(resolve));
  };
  const omitted: string[] = [];
  for (const entry of options.entries) {
    const room = Math.min(MAX_ENTRY, options.limit - written - RESERVE);
    if (room < RESERVE) {
      omitted.push(entry.name);
      continue;
    }
    options.onEntry(entry.name);
    const content = Buffer.from(redactText(await textOf(entry, { room: Math.floor(room * 0.9), ms: options.entryMs })));
    await put(
      tarFile({ name: `${options.folder}/${entry.name}`, content: content.subarray(0, room), at: options.now() }),
    );
    yield* pieces.splice(0);
  }
  if (omitted.length > 0) {
    const content = Buffer.from(`These do not fit:\n${omitted.join('\n')}\n`).subarray(0, RESERVE / 2);
    await put(tarFile({ name: `${options.folder}/omitted.txt`, content, at: options.now() }));
  }
  gzip.end(TAR_END);
  await once(gzip, 'end');
  yield* pieces;
}

async function textOf(entry: Entry, limits: { room: number; ms: number }): Promise<string> {
  let text = '';
  let length = 0;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), limits.ms);
  });
  const source = entry.read();
  const pieces = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  try {
    for (;;) {
      const next = await Promise.race([pieces.next(), late]);
      if (next === 'late') return text + LATE;
      if (next.done === true) return text;
      const piece: string = next.value;
      length += Buffer.byteLength(piece);
      if (length > limits.room) return text + piece.slice(0, Math.max(0, limits.room - Buffer.byteLength(text))) + CUT;
      text += piece;
    }
  } catch (error) {
    return `${text}\n[${messageOf(error)}]\n`;
  } finally {
    clearTimeout(timer);
    // A list that is cut must not be read on; one that hangs is not waited for.
    void Promise.resolve(pieces.return?.()).catch(() => undefined);
  }
}
