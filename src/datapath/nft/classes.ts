import type { NumericIdentity } from '../../core/identity.ts';
import type { DirectionChanges, DirectionPolicy, PolicyClass } from '../../policy/result.ts';
import { markKey } from '../fields.ts';
import { type ElementBatch, type SetShape, SHAPES } from './elements.ts';
import { FAMILIES, type RowElements, rowAddress, rowElements } from './keys.ts';
import { CLASS_BIT, classNumber, classOfNumber } from './names.ts';
import { SetTracker } from './tracker.ts';

export interface PolicyOptions {
  /** All of the policy without. */
  readonly changes: DirectionChanges | undefined;
  /** Denials are counted, not applied. */
  readonly audit: boolean;
}

/**
 * Classes of one direction in the kernel: their numbers, their rows, and the identities that lead to them.
 *
 * A packet that is judged while a change is committed may see each map before or after it, and a map of ranges is changed
 * at the very end of a commit. So a class whose rows change in more than one place takes a new number, and its new rows are
 * there before anything leads to them; and what goes out of use goes when no packet can still be on its way to it.
 */
export interface ClassChange {
  /** What makes the change, in one transaction; behind the one with the new rows. */
  switch(): void;
  /** Identities that belong to all others now lead to their class; with the switch, or behind what leads away from them. */
  turn(): void;
  /** What is out of use then; in a transaction behind that. */
  leave(): void;
}

/** See `ClassChange`. */
export class ClassTracker {
  readonly side: 'in' | 'out';
  /** Class number to its rows. */
  readonly rows = new Map<number, RowElements>();
  readonly identities: SetTracker;
  /** The number of the class of all others, by family. */
  readonly others: SetTracker;
  /** Id of the model to number. */
  readonly #numbers = new Map<number, number>();
  #free: number[] = [];
  #next = 0;
  #unknown = -1;

  constructor(side: 'in' | 'out') {
    this.side = side;
    this.identities = new SetTracker(`class_${side}`, SHAPES.get(`class_${side}`) as SetShape);
    this.others = new SetTracker(`others_${side}`, SHAPES.get(`others_${side}`) as SetShape);
  }

  get rowCount(): number {
    let count = 0;
    for (const rows of this.rows.values()) count += rows.size;
    return count;
  }

  clear(): void {
    this.rows.clear();
    this.identities.held.clear();
    this.others.held.clear();
    this.#numbers.clear();
    this.#free = [];
    this.#next = 0;
    this.#unknown = -1;
  }

  /** Told while the kernel is read. */
  holdRow(number: number, row: string, code: number): void {
    this.#rowsOf(number).set(row, code);
  }

  /** Told while the kernel is read. */
  holdWay(from: 'identities' | 'others', key: string, number: number): void {
    this[from].held.set(key, number);
    this.#rowsOf(number);
  }

  #rowsOf(number: number): RowElements {
    const held = this.rows.get(number);
    if (held !== undefined) return held;
    const rows: RowElements = new Map();
    this.rows.set(number, rows);
    this.#next = Math.max(this.#next, classOfNumber(number) + 1);
    return rows;
  }

  /** Writes the new rows of the way to `policy`; the steps returned are for the transactions behind. */
  become(policy: DirectionPolicy, options: PolicyOptions, batch: ElementBatch): ClassChange {
    const classes = new Map<number, PolicyClass>();
    for (const each of policy.classes()) classes.set(each.id, each);
    classes.set(policy.unknownClass.id, policy.unknownClass);
    const everything = options.changes === undefined || policy.unknownClass.id !== this.#unknown;
    if (everything) this.#takeNumbers(classes, policy, options.audit);
    const moved = new Set<number>();
    const inPlace: (() => void)[] = [];
    for (const id of everything ? classes.keys() : (options.changes?.classes ?? [])) {
      const each = classes.get(id);
      if (each === undefined) continue;
      const rows = rowElements(each, policy, options.audit);
      const known = this.#numbers.has(id);
      if (known && this.#mustMove(id, rows)) moved.add(id);
      const number = this.#number(id);
      if (known && !moved.has(id)) inPlace.push(() => this.#becomeRows(number, rows, batch));
      else this.#becomeRows(number, rows, batch);
    }
    const changed = everything ? undefined : (options.changes?.identities ?? new Set<NumericIdentity>());
    let leave: string[] = [];
    return {
      switch: () => {
        for (const each of inPlace) each();
        const unknown = this.#number(this.#unknown);
        for (const family of FAMILIES) this.others.put(family, unknown, batch);
        leave = this.#becomeIdentities(policy, { changed, moved }, batch);
        for (const id of this.#numbers.keys()) if (!classes.has(id)) this.#numbers.delete(id);
      },
      turn: () => {
        for (const key of leave) this.identities.put(key, this.#number(this.#unknown), batch);
      },
      leave: () => {
        for (const key of leave) this.identities.put(key, undefined, batch);
        this.#sweep(batch);
      },
    };
  }

  /** @returns the identities that belong to all others now */
  #becomeIdentities(
    policy: DirectionPolicy,
    what: { changed: ReadonlySet<NumericIdentity> | undefined; moved: ReadonlySet<number> },
    batch: ElementBatch,
  ): string[] {
    const leave: string[] = [];
    const put = (id: NumericIdentity, of: PolicyClass): void => {
      if (id >= CLASS_BIT) return;
      const key = markKey(id);
      if (of.id !== this.#unknown) this.identities.put(key, this.#number(of.id), batch);
      else if (this.identities.held.has(key)) leave.push(key);
    };
    const { changed, moved } = what;
    for (const id of changed ?? []) put(id, policy.classOf(id));
    if (changed !== undefined && moved.size === 0) return leave;
    const wanted = new Set<string>();
    for (const [id, of] of policy.identities()) {
      if (changed === undefined || moved.has(of.id)) put(id, of);
      if (of.id !== this.#unknown) wanted.add(markKey(id));
    }
    if (changed !== undefined) return leave;
    return [...this.identities.held.keys()].filter((key) => !wanted.has(key));
  }

  /** Gives a class that changes in more than one place a new number. */
  #mustMove(id: number, wanted: RowElements): boolean {
    const number = this.#numbers.get(id);
    if (number === undefined || differences(this.#rowsOf(number), wanted) <= 1) return false;
    this.#numbers.delete(id);
    return true;
  }

  #number(id: number): number {
    const known = this.#numbers.get(id);
    if (known !== undefined) return known;
    const number = this.#free.pop() ?? classNumber(this.#next++);
    this.#numbers.set(id, number);
    this.#rowsOf(number);
    return number;
  }

  /** Classes take the numbers of equal rows, so that after a restart what is right stays untouched. */
  #takeNumbers(classes: ReadonlyMap<number, PolicyClass>, policy: DirectionPolicy, audit: boolean): void {
    this.#unknown = policy.unknownClass.id;
    this.#free = [];
    for (let n = this.#next - 1; n >= 0; n--) {
      const number = classNumber(n);
      if (!this.rows.has(number)) this.#free.push(number);
    }
    const taken = new Set(this.#numbers.values());
    const equal = new Map<string, number[]>();
    // The class of all others last, to be taken first by its like; by another only if nothing else is equal.
    const [others] = this.others.held.values();
    for (const [number, rows] of this.rows) {
      if (taken.has(number)) continue;
      const content = contentOf(rows);
      const numbers = equal.get(content);
      if (numbers === undefined) equal.set(content, [number]);
      else if (number === others) numbers.push(number);
      else numbers.unshift(number);
    }
    if (equal.size === 0) return;
    for (const [id, each] of [[this.#unknown, policy.unknownClass] as const, ...classes]) {
      if (this.#numbers.has(id)) continue;
      const numbers = equal.get(contentOf(rowElements(each, policy, audit)));
      const number = id === this.#unknown ? numbers?.pop() : numbers?.shift();
      if (number !== undefined) this.#numbers.set(id, number);
    }
  }

  #becomeRows(number: number, wanted: RowElements, batch: ElementBatch): void {
    const held = this.#rowsOf(number);
    for (const [row, code] of held) if (wanted.get(row) !== code) this.#remove(number, row, code, batch);
    for (const [row, code] of wanted) {
      if (held.get(row) === code) continue;
      const [set, key] = rowAddress(row, number, this.side);
      batch.element(set, SHAPES.get(set) as SetShape, false, Buffer.from(key, 'latin1'), code);
      held.set(row, code);
    }
  }

  #remove(number: number, row: string, code: number, batch: ElementBatch): void {
    const [set, key] = rowAddress(row, number, this.side);
    batch.element(set, SHAPES.get(set) as SetShape, true, Buffer.from(key, 'latin1'), code);
    this.rows.get(number)?.delete(row);
  }

  #sweep(batch: ElementBatch): void {
    const used = new Set(this.#numbers.values());
    for (const [number, rows] of this.rows) {
      if (used.has(number)) continue;
      for (const [row, code] of rows) this.#remove(number, row, code, batch);
      this.rows.delete(number);
      this.#free.push(number);
    }
  }
}

/** In how many places two lists of rows differ. */
function differences(a: RowElements, b: RowElements): number {
  let count = 0;
  for (const [row, code] of a) if (b.get(row) !== code) count++;
  for (const row of b.keys()) if (!a.has(row)) count++;
  return count;
}

function contentOf(rows: RowElements): string {
  return [...rows]
    .map(([row, code]) => `${row}=${code}`)
    .sort()
    .join('\n');
}
