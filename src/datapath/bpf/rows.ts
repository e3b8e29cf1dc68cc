import { type DirectionPolicy, type PolicyClass, type PolicyRow, PROTOCOL } from '../../policy/result.ts';
import { CODE, rangeKey, rangeParts, rowKey, type Side } from './layout.ts';
import type { Nested } from './nested.ts';

/** What a class says in one place of the maps. */
export interface Cell {
  readonly map: 'rows' | 'ranges';
  readonly value: number;
  readonly first: number;
  readonly last: number;
  /** Names the place without the class: the same for equal rows of two classes. */
  readonly place: string;
  key(classNumber: number): string;
}

/** By place. */
export type Cells = ReadonlyMap<string, Cell>;

/** A part of a range in the map, with its class. */
export type RangeCell = Nested & { readonly cell: Cell };

const WITH_TYPES: ReadonlySet<number> = new Set([PROTOCOL.icmp, PROTOCOL.icmpv6]);

/** The rows of a class, as the maps hold them. */
export function cellsOf(of: { policyClass: PolicyClass; policy: DirectionPolicy; audit: boolean; side: Side }): Cells {
  const { policyClass, policy, audit, side } = of;
  const cells = new Map<string, Cell>();
  for (const row of policyClass.rows) {
    const value = row.verdict === 'allow' ? CODE.allow : row.audit === true || audit ? CODE.audited : CODE.denyRule;
    for (const cell of rowCells(row, value, side)) cells.set(cell.place, cell);
  }
  const open = !(policy.enforcing && policy.defaultDeny);
  const all = (value: number): void =>
    void cells.set(ALL, hashCell({ kind: 'all', protocol: 0, port: 0 }, value, side));
  if (open && !cells.has(ALL)) all(CODE.allow);
  // A class that denies everything has a row too: to be seen, to be counted, and to be found again by its identities.
  if (cells.size === 0) all(audit ? CODE.audited : CODE.noRule);
  return cells;
}

const ALL = 'all 0 0';

function rowCells({ protocol, first, last }: PolicyRow, value: number, side: Side): Cell[] {
  if (protocol === PROTOCOL.any) return [hashCell({ kind: 'all', protocol: 0, port: 0 }, value, side)];
  if (first === 0 && last >= 65535) return [hashCell({ kind: 'protocol', protocol, port: 0 }, value, side)];
  if (WITH_TYPES.has(protocol)) {
    const count = Math.max(0, Math.min(last, 255) - first + 1);
    return Array.from({ length: count }, (_, i) => hashCell({ kind: 'port', protocol, port: first + i }, value, side));
  }
  if (first === last) return [hashCell({ kind: 'port', protocol, port: first }, value, side)];
  return rangeParts(first, last).map((part) => rangeCell({ protocol, ...part, first, last }, value, side));
}

type HashPlace = Parameters<typeof rowKey>[0];

export function hashCell(at: HashPlace, value: number, side: Side): Cell {
  const [first, last] = at.kind === 'port' ? [at.port, at.port] : [0, 65535];
  const place = `${at.kind} ${at.protocol} ${at.port}`;
  return { map: 'rows', value, first, last, place, key: (number) => rowKey(at, number, side) };
}

export function rangeCell(
  at: { protocol: number; port: number; bits: number; first: number; last: number },
  value: number,
  side: Side,
): Cell {
  const { first, last } = at;
  const place = `range ${at.protocol} ${at.port}/${at.bits}`;
  return { map: 'ranges', value, first, last, place, key: (number) => rangeKey(at, number, side) };
}

/** Equal for classes that say the same. */
export function contentOf(cells: Cells): string {
  return [...cells.values()]
    .map(({ place, value, first, last }) => `${place}=${value} ${first}-${last}`)
    .sort()
    .join('\n');
}
