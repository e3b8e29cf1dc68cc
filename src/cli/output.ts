import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { stringify } from 'yaml';
import { API_VERSION } from '../api/types.ts';
import { printableJson } from '../observe/printable.ts';
import type { OutputFormat } from './command.ts';
import { type Cell, TableWriter } from './table.ts';
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
  if (format === 'json') return write(terminal.out, `${jsonText(record, 2)}\n`);
  if (format === 'yaml') return write(terminal.out, yamlText(record));
  return write(terminal.out, output.table(format === 'wide'));
}

export interface Column<T> {
  readonly heading: Cell;
  /** Only in the wide form. */
  readonly wide?: true;
  cell(record: T): Cell;
}

export interface ListOutput<T> {
  readonly terminal: Terminal;
  readonly format: OutputFormat;
  /** `IdentityList` */
  readonly kind: string;
  readonly records: AsyncIterable<T> | Iterable<T>;
  readonly columns: readonly Column<T>[];
  /** The order for people; lists that are too long to be held come in the order of the agent. */
  compare?(a: T, b: T): number;
}

/** So many rows are held, ordered and measured; the rest of a longer list is written as it comes. */
const HELD_ROWS = 20_000;
const ROWS_PER_WRITE = 500;

/** Shows a list, however long. @returns how many records it had */
export function writeList<T extends object>(output: ListOutput<T>): Promise<number> {
  if (output.format === 'json') return writeJson(output);
  if (output.format === 'yaml') return writeYaml(output);
  return writeTable(output);
}

async function writeTable<T>(output: ListOutput<T>): Promise<number> {
  const wide = output.format === 'wide';
  const columns = output.columns.filter((column) => wide || column.wide !== true);
  const table = new TableWriter(columns.map((column) => column.heading));
  let count = 0;
  let measured = false;
  let held: T[] = [];
  const flush = async (): Promise<void> => {
    const rows = held.map((record) => columns.map((column) => column.cell(record)));
    held = [];
    measured = true;
    await write(output.terminal.out, table.write(rows));
  };
  for await (const record of output.records) {
    count++;
    held.push(record);
    if (held.length >= (measured ? ROWS_PER_WRITE : HELD_ROWS)) await flush();
  }
  if (!measured && output.compare !== undefined) held.sort(output.compare);
  if (!measured || held.length > 0) await flush();
  return count;
}

async function writeJson<T extends object>({ terminal, kind, records }: ListOutput<T>): Promise<number> {
  let count = 0;
  let text = `{\n  "apiVersion": ${JSON.stringify(API_VERSION)},\n  "kind": ${JSON.stringify(kind)},\n  "items": [`;
  for await (const record of records) {
    text += `${count++ === 0 ? '' : ','}\n    ${jsonText(record)}`;
    if (count % ROWS_PER_WRITE === 0) {
      await write(terminal.out, text);
      text = '';
    }
  }
  await write(terminal.out, `${text}${count === 0 ? '' : '\n  '}]\n}\n`);
  return count;
}

async function writeYaml<T extends object>({ terminal, kind, records }: ListOutput<T>): Promise<number> {
  let count = 0;
  let text = yamlText({ apiVersion: API_VERSION, kind });
  for await (const record of records) {
    text += `${count++ === 0 ? 'items:\n' : ''}${yamlText([record])}`;
    if (count % ROWS_PER_WRITE === 0) {
      await write(terminal.out, text);
      text = '';
    }
  }
  await write(terminal.out, `${text}${count === 0 ? 'items: []\n' : ''}`);
  return count;
}

/** One line, or indented; safe on a terminal. */
export function jsonText(value: unknown, indent?: number): string {
  const text = JSON.stringify(value, undefined, indent);
  return indent === undefined ? printableJson(text) : text.split('\n').map(printableJson).join('\n');
}

/** Text that could play tricks on a terminal is written in double quotes, with escapes. */
export function yamlText(value: unknown): string {
  const options = { aliasDuplicateObjects: false, lineWidth: 0 } as const;
  const text = stringify(value, options);
  if (text.split('\n').every((line) => printableJson(line) === line)) return text;
  const quoted = stringify(value, {
    ...options,
    defaultStringType: 'QUOTE_DOUBLE',
    defaultKeyType: 'PLAIN',
    doubleQuotedAsJSON: true,
  });
  return quoted.split('\n').map(printableJson).join('\n');
}
