import type { Writable } from 'node:stream';
import type { RecordFilter } from './record-filter.ts';

export interface ListStream {
  /** `undefined` is no record, only a place where the list may be interrupted: one that finds little must yield it. */
  readonly records: Iterable<object | undefined>;
  readonly filter: RecordFilter;
  readonly to: Writable;
  /** How long a reader may take nothing, milliseconds. */
  readonly stallMs: number;
}

/** Large enough that the cost of a write does not count, small enough to hold for many readers at once. */
export const CHUNK_CHARACTERS = 64 << 10;
/** The event loop gets its turn after so long, milliseconds; the bar is 50. */
const TURN_MS = 8;
/** Asking the clock costs as much as a small record. */
const CLOCK_EVERY = 64;

/**
 * Writes a list as one JSON record a line, at the pace of the reader. At most a chunk is held in memory, and the event
 * loop is never kept for long, whatever the length of the list. Rejects when the reader is gone or stalls.
 */
export async function streamList(list: ListStream): Promise<void> {
  let chunk = '';
  let seen = 0;
  let turn = performance.now();
  for (const record of list.records) {
    if (record !== undefined && list.filter(record)) chunk += `${JSON.stringify(record)}\n`;
    if (chunk.length >= CHUNK_CHARACTERS) {
      await writeChunk(list, chunk);
      chunk = '';
    }
    if (++seen % CLOCK_EVERY === 0 && performance.now() - turn > TURN_MS) {
      await new Promise(setImmediate);
      turn = performance.now();
    }
  }
  if (chunk !== '') await writeChunk(list, chunk);
}

/** Waits while the reader is slow. Rejects when it is gone or stalls. */
export function writeChunk({ to, stallMs }: Pick<ListStream, 'to' | 'stallMs'>, chunk: string): Promise<void> {
  if (to.destroyed) return Promise.reject(new Error('the reader is gone'));
  if (to.write(chunk)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const done = (error?: Error): void => {
      clearTimeout(timer);
      to.off('drain', onDrain);
      to.off('close', onClose);
      if (error === undefined) resolve();
      else reject(error);
    };
    const onDrain = (): void => done();
    const onClose = (): void => done(new Error('the reader is gone'));
    const timer = setTimeout(() => done(new Error('the reader takes nothing')), stallMs);
    to.once('drain', onDrain);
    to.once('close', onClose);
  });
}
