import type { NumericIdentity } from '../../core/identity.ts';
import type { DirectionChanges, DirectionPolicy, PolicyClass } from '../../policy/result.ts';
import type { ChangeSet, RowExtra } from './change-set.ts';
import { memberKey, type Side } from './layout.ts';
import { Cover, widenKey } from './nested.ts';
import { type Cell, type Cells, cellsOf, contentOf, type RangeCell } from './rows.ts';

export interface PolicyOptions {
  /** All of the policy without. */
  readonly changes: DirectionChanges | undefined;
  /** Denials are counted, not applied. */
  readonly audit: boolean;
  /** What the kernel has counted in a row so far. */
  readonly counted: (cell: Cell, classNumber: number) => Pick<RowExtra, 'packets' | 'bytes'>;
}

/**
 * Classes of one direction in the kernel: their numbers, their rows, and the identities that lead to them. A number stays
 * with its class while the process lives; a new process finds it again by its rows.
 */
export class ClassTracker {
  readonly side: Side;
  /** Class number to its rows. */
  readonly rows = new Map<number, Cells>();
  /** Identity to class number. */
  readonly identities = new Map<number, number>();
  /** The number of the class of all others. */
  others = 0;
  /** Id of the model to number. */
  readonly #numbers = new Map<number, number>();
  #free: number[] = [];
  #next = 1;
  #unknown = -1;
  #counted: { readonly rows: number; readonly ranges: boolean } | undefined;

  constructor(side: Side) {
    this.side = side;
  }

  /** Rows as people count them: one for a range, however many parts it has. */
  get rowCount(): number {
    return this.#count().rows;
  }

  get hasRanges(): boolean {
    return this.#count().ranges;
  }

  /** Asked for all the time, and the same for as long as no row changes. */
  #count(): { readonly rows: number; readonly ranges: boolean } {
    if (this.#counted !== undefined) return this.#counted;
    let [rows, ranges] = [0, false];
    for (const cells of this.rows.values()) {
      const all = [...cells.values()];
      rows += new Set(all.map(rowName)).size;
      ranges ||= all.some(({ map }) => map === 'ranges');
    }
    this.#counted = { rows, ranges };
    return this.#counted;
  }

  clear(): void {
    this.#counted = undefined;
    this.rows.clear();
    this.identities.clear();
    this.#numbers.clear();
    this.#free = [];
    this.#next = 1;
    this.#unknown = -1;
    this.others = 0;
  }

  /** Told while the kernel is read. */
  holdRow(number: number, cell: Cell): void {
    this.#counted = undefined;
    const cells = (this.rows.get(number) ?? new Map()) as Map<string, Cell>;
    this.rows.set(number, cells.set(cell.place, cell));
    this.#next = Math.max(this.#next, number + 1);
  }

  /** Told while the kernel is read. */
  holdIdentity(identity: number, number: number): void {
    this.identities.set(identity, number);
    this.#next = Math.max(this.#next, number + 1);
  }

  become(policy: DirectionPolicy, options: PolicyOptions, set: ChangeSet): void {
    const classes = new Map<number, PolicyClass>();
    for (const each of policy.classes()) classes.set(each.id, each);
    classes.set(policy.unknownClass.id, policy.unknownClass);
    const everything = options.changes === undefined || policy.unknownClass.id !== this.#unknown;
    const cells = (policyClass: PolicyClass): Cells =>
      cellsOf({ policyClass, policy, audit: options.audit, side: this.side });
    if (everything) this.#takeNumbers(classes, policy.unknownClass.id, cells);
    this.#unknown = policy.unknownClass.id;
    for (const id of everything ? classes.keys() : (options.changes?.classes ?? [])) {
      const each = classes.get(id);
      if (each !== undefined) this.#becomeRows(this.#number(id), cells(each), { options, set });
    }
    this.#sweep(classes, { options, set });
    this.others = this.#number(policy.unknownClass.id);
    this.#becomeIdentities(policy, everything ? undefined : options.changes?.identities, set);
  }

  #becomeIdentities(policy: DirectionPolicy, changed: ReadonlySet<NumericIdentity> | undefined, set: ChangeSet): void {
    if (changed !== undefined) {
      for (const id of changed) this.#putIdentity(id, policy.classOf(id), set);
      return;
    }
    const wanted = new Set<number>();
    for (const [id, of] of policy.identities()) {
      wanted.add(id);
      this.#putIdentity(id, of, set);
    }
    for (const id of [...this.identities.keys()]) if (!wanted.has(id)) this.#moveIdentity(id, 0, set);
  }

  #putIdentity(id: number, of: PolicyClass, set: ChangeSet): void {
    this.#moveIdentity(id, of.id === this.#unknown ? 0 : this.#number(of.id), set);
  }

  #moveIdentity(id: number, after: number, set: ChangeSet): void {
    const before = this.identities.get(id) ?? 0;
    if (before === after) return;
    set.put({ map: 'classes', before, after }, memberKey(id, this.side));
    if (after === 0) this.identities.delete(id);
    else this.identities.set(id, after);
  }

  #becomeRows(number: number, wanted: Cells, { options, set }: { options: PolicyOptions; set: ChangeSet }): void {
    const held = this.rows.get(number) ?? (new Map() as Cells);
    const put = (cell: Cell, values: { before: number; after: number; gone: boolean; known: boolean }): void => {
      const { before, after, gone, known } = values;
      const counted = known ? options.counted(cell, number) : { packets: 0n, bytes: 0n };
      const row = { first: cell.first, last: cell.last, ...counted };
      set.put({ map: cell.map, before, after }, cell.key(number), { row, gone });
    };
    const covers = rangeCovers(held, wanted, number);
    for (const [place, cell] of held) {
      if (wanted.has(place)) continue;
      put(cell, { before: cell.value, after: covers.after(cell), gone: true, known: true });
    }
    for (const [place, cell] of wanted) {
      const old = held.get(place);
      if (old?.value === cell.value && old.first === cell.first && old.last === cell.last) continue;
      put(cell, {
        before: old?.value ?? covers.before(cell),
        after: cell.value,
        gone: false,
        known: old !== undefined,
      });
    }
    this.#counted = undefined;
    if (wanted.size === 0) this.rows.delete(number);
    else this.rows.set(number, wanted);
  }

  #number(id: number): number {
    const known = this.#numbers.get(id);
    if (known !== undefined) return known;
    const number = this.#free.pop() ?? this.#next++;
    this.#numbers.set(id, number);
    return number;
  }

  /** Classes take the numbers of equal rows, so that after a restart what is right stays untouched. */
  #takeNumbers(classes: ReadonlyMap<number, PolicyClass>, unknown: number, cells: (of: PolicyClass) => Cells): void {
    for (const id of this.#numbers.keys()) if (!classes.has(id)) this.#numbers.delete(id);
    const taken = new Set(this.#numbers.values());
    const equal = new Map<string, number[]>();
    for (const [number, rows] of this.rows) {
      if (taken.has(number)) continue;
      const content = contentOf(rows);
      const numbers = equal.get(content);
      if (numbers === undefined) equal.set(content, [number]);
      // The class of all others last, to be taken first by its like; by another only if nothing else is equal.
      else if (number === this.others) numbers.push(number);
      else numbers.unshift(number);
    }
    const others = classes.get(unknown) as PolicyClass;
    for (const [id, each] of [[unknown, others] as const, ...classes]) {
      if (equal.size === 0) break;
      if (this.#numbers.has(id)) continue;
      const numbers = equal.get(contentOf(cells(each)));
      const number = id === unknown ? numbers?.pop() : numbers?.shift();
      if (number !== undefined) this.#numbers.set(id, number);
    }
    const used = new Set(this.#numbers.values());
    this.#free = [];
    for (let number = this.#next - 1; number > 0; number--) if (!used.has(number)) this.#free.push(number);
  }

  /** Rows of classes that are no more. */
  #sweep(classes: ReadonlyMap<number, PolicyClass>, with_: { options: PolicyOptions; set: ChangeSet }): void {
    for (const [id, number] of this.#numbers) {
      if (classes.has(id)) continue;
      this.#numbers.delete(id);
      this.#free.push(number);
    }
    const used = new Set(this.#numbers.values());
    for (const number of [...this.rows.keys()]) if (!used.has(number)) this.#becomeRows(number, new Map(), with_);
  }
}

/** One name for all parts of a range. */
export function rowName({ map, place, first, last }: Cell): string {
  return map === 'rows' ? place : `${place.slice(0, place.lastIndexOf(' '))} ${first}-${last}`;
}

/** What packets find in ranges around a part that comes or goes. */
function rangeCovers(
  held: Cells,
  wanted: Cells,
  number: number,
): { before(cell: Cell): number; after(cell: Cell): number } {
  const nested = (cells: Cells): Map<string, RangeCell> =>
    new Map(
      [...cells.values()].flatMap((cell) => {
        if (cell.map !== 'ranges') return [];
        const key = cell.key(number);
        return [[key, { key, bits: bitsOf(key), value: cell.value, cell }] as const];
      }),
    );
  let covers: readonly [Cover<RangeCell>, Cover<RangeCell>] | undefined;
  const around = (which: 0 | 1, cell: Cell): number => {
    if (cell.map === 'rows') return 0;
    covers ??= [new Cover(nested(held), widenKey), new Cover(nested(wanted), widenKey)];
    const key = cell.key(number);
    return covers[which].around({ key, bits: bitsOf(key) });
  };
  return { before: (cell) => around(0, cell), after: (cell) => around(1, cell) };
}

function bitsOf(key: string): number {
  return Buffer.from(key.slice(0, 4), 'latin1').readUInt32LE(0);
}
