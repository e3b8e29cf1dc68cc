import { ROW_BYTES, ROW_KIND, type Side } from './layout.ts';
import { type Cell, hashCell, rangeCell } from './rows.ts';

const RANGE_FIXED_BITS = 48;
const KINDS = Object.keys(ROW_KIND) as (keyof typeof ROW_KIND)[];

const sideOf = (byte = 0): Side => ((byte & 1) === 0 ? 'in' : 'out');

/** Of an element of `rows`. */
export function cellOfRow(key: Buffer, code: number): Cell {
  const [protocol = 0, kind = 0] = key.subarray(6);
  const port = key.readUInt16LE(4);
  return hashCell({ kind: KINDS[kind >> 1] ?? 'port', protocol, port }, code, sideOf(kind));
}

/** Of an element of `ranges`. */
export function cellOfRange(key: Buffer, code: number, value: Buffer): Cell {
  const at = {
    protocol: key[9] ?? 0,
    port: key.readUInt16BE(10),
    bits: key.readUInt32LE(0) - RANGE_FIXED_BITS,
    first: value.readUInt16LE(ROW_BYTES - 8),
    last: value.readUInt16LE(ROW_BYTES - 6),
  };
  return rangeCell(at, code, sideOf(key[8]));
}
