import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { stringify } from 'yaml';
import type { OutputFormat } from './command.ts';
import type { Terminal } from './terminal.ts';

/** Writes and waits while the reader is slow. */
export async function write(stream: Writable, text: string): Promise<void> {
  if (!stream.write(text)) await once(stream, 'drain');
}

export interface RecordOutput {
  readonly terminal: Terminal;
  readonly format: OutputFormat;
  /** With `apiVersion` and `kind`. */
  readonly record: object;
  /** The text for people. */
  table(wide: boolean): string;
}

/** Shows one record. */
export function writeRecord(output: RecordOutput): Promise<void> {
  const { terminal, format, record } = output;
  if (format === 'json') return write(terminal.out, `${JSON.stringify(record, undefined, 2)}\n`);
  if (format === 'yaml') return write(terminal.out, stringify(record, { aliasDuplicateObjects: false }));
  return write(terminal.out, output.table(format === 'wide'));
}
