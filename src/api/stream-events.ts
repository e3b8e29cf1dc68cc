import type { Writable } from 'node:stream';
import { writeChunk } from './stream-list.ts';

export interface EventStream {
  events(signal: AbortSignal): AsyncIterable<object>;
  readonly to: Writable;
  /** How long a reader may take nothing, milliseconds. */
  readonly stallMs: number;
}

/** Writes events as one JSON record a line as they come, at the pace of the reader. Rejects when the reader is gone or stalls. */
export async function streamEvents({ events, to, stallMs }: EventStream): Promise<void> {
  const ended = new AbortController();
  const onClose = (): void => ended.abort();
  to.once('close', onClose);
  try {
    for await (const event of events(ended.signal)) await writeChunk({ to, stallMs }, `${JSON.stringify(event)}\n`);
  } finally {
    to.off('close', onClose);
    ended.abort();
  }
}
