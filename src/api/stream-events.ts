import type { Writable } from 'node:stream';
import { CHUNK_CHARACTERS, writeChunk } from './stream-list.ts';

export interface EventStream {
  events(signal: AbortSignal): AsyncIterable<object>;
  readonly to: Writable;
  /** How long a reader may take nothing, milliseconds. */
  readonly stallMs: number;
}

/**
 * Writes events as one JSON record a line as they come, those of one turn of the event loop in one piece, at the pace of the
 * reader. Rejects when the reader is gone or stalls.
 */
export async function streamEvents(stream: EventStream): Promise<void> {
  const ended = new AbortController();
  const onClose = (): void => ended.abort();
  stream.to.once('close', onClose);
  const pieces = new Pieces(stream);
  try {
    for await (const event of stream.events(ended.signal)) await pieces.add(`${JSON.stringify(event)}\n`);
    await pieces.flush();
  } finally {
    stream.to.off('close', onClose);
    pieces.drop();
    ended.abort();
  }
}

/** Lines on their way to a reader. */
class Pieces {
  readonly #stream: EventStream;
  #text = '';
  #soon: NodeJS.Immediate | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(stream: EventStream) {
    this.#stream = stream;
  }

  /** Waits while the reader is slow. */
  async add(line: string): Promise<void> {
    this.#text += line;
    if (this.#text.length >= CHUNK_CHARACTERS) return this.flush();
    this.#soon ??= setImmediate(() => void this.flush().catch(() => undefined));
    await this.#writing;
  }

  flush(): Promise<void> {
    this.drop();
    const text = this.#text;
    this.#text = '';
    if (text !== '') this.#writing = this.#writing.then(() => writeChunk(this.#stream, text));
    return this.#writing;
  }

  drop(): void {
    clearImmediate(this.#soon);
    this.#soon = undefined;
  }
}
