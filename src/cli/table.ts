import { printable } from '../observe/printable.ts';
import { cellWidth, padCells } from './cells.ts';

/** The text of one cell, or its lines. */
export type Cell = string | readonly string[];

const GAP = '   ';

/** Rows under headings, columns as wide as they must be. Cells may hold anything: they are made printable here. */
export class TableWriter {
  readonly #headings: readonly Cell[];
  #widths: readonly number[] | undefined;

  constructor(headings: readonly Cell[]) {
    this.#headings = headings;
  }

  /** The text of these rows. The first call writes the headings too, and fixes the widths for all later rows. */
  write(rows: readonly (readonly Cell[])[]): string {
    const lines = rows.map((row) => row.map(linesOf));
    if (this.#widths !== undefined) return lines.map((row) => rowText(row, this.#widths ?? [])).join('');
    const all = [this.#headings.map(linesOf), ...lines];
    this.#widths = this.#headings.map((_, column) => {
      let width = 0;
      for (const row of all) for (const line of row[column] ?? []) width = Math.max(width, cellWidth(line));
      return width;
    });
    return all.map((row) => rowText(row, this.#widths ?? [])).join('');
  }
}

function linesOf(cell: Cell): string[] {
  return typeof cell === 'string' ? [printable(cell)] : cell.map(printable);
}

function rowText(row: readonly (readonly string[])[], widths: readonly number[]): string {
  const height = Math.max(1, ...row.map((cell) => cell.length));
  let text = '';
  for (let line = 0; line < height; line++) {
    text += `${row
      .map((cell, column) => padCells(cell[line] ?? '', widths[column] ?? 0))
      .join(GAP)
      .trimEnd()}\n`;
  }
  return text;
}
