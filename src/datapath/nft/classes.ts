import type { NumericIdentity } from '../../core/identity.ts';
import type { DirectionChanges, DirectionPolicy, PolicyClass } from '../../policy/result.ts';
import { type ElementBatch, type SetShape, SHAPES } from './elements.ts';
import { markKey, type RowElements, rowAddress, rowElements } from './keys.ts';
import { CLASS_BIT, classNumber, classOfNumber, UNKNOWN_CLASS } from './names.ts';
import { SetTracker } from './tracker.ts';

export interface PolicyOptions {
  /** All of the policy without. */
  readonly changes: DirectionChanges | undefined;
  /** Denials are counted, not applied. */
  readonly audit: boolean;
}

/**
 * Classes of one direction in the kernel: their numbers, their rows, and the identities that lead to them. The class of
 * all others has a fixed number, the rest take free ones.
 */
export class ClassTracker {
  readonly side: 'in' | 'out';
  /** Class number to its rows. */
  readonly rows = new Map<number, RowElements>();
  readonly identities: SetTracker;
  /** Id of the model to number. */
  readonly #numbers = new Map<number, number>();
  #free: number[] = [];
  #next = 1;
  #unknown = -1;

  constructor(side: 'in' | 'out') {
    this.side = side;
    this.identities = new SetTracker(`class_${side}`, SHAPES.get(`class_${side}`) as SetShape);
  }

  get rowCount(): number {
    let count = 0;
    for (const rows of this.rows.values()) count += rows.size;
    return count;
  }

  clear(): void {
    this.rows.clear();
    this.identities.held.clear();
    this.#numbers.clear();
    this.#free = [];
    this.#next = 1;
    this.#unknown = -1;
  }

  /** Told while the kernel is read. */
  holdRow(number: number, row: string, code: number): void {
    this.#rowsOf(number).set(row, code);
  }

  /** Told while the kernel is read. */
  holdIdentity(key: string, number: number): void {
    this.identities.held.set(key, number);
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

  /**
   * Writes the way to `policy`: rows first, then the identities that lead to them. What goes out of use is left to the
   * function returned, to be called when the addresses are written: it takes away what nothing leads to any more.
   */
  become(policy: DirectionPolicy, options: PolicyOptions, batch: ElementBatch): () => void {
    const classes = new Map<number, PolicyClass>();
    for (const each of policy.classes()) classes.set(each.id, each);
    classes.set(policy.unknownClass.id, policy.unknownClass);
    const everything = options.changes === undefined || policy.unknownClass.id !== this.#unknown;
    if (everything) this.#takeNumbers(classes, policy, options.audit);
    for (const id of everything ? classes.keys() : (options.changes?.classes ?? [])) {
      const each = classes.get(id);
      if (each !== undefined) this.#becomeRows(this.#number(id), rowElements(each, policy, options.audit), batch);
    }
    const leave = this.#becomeIdentities(policy, everything ? undefined : options.changes?.identities, batch);
    for (const id of this.#numbers.keys()) if (!classes.has(id)) this.#numbers.delete(id);
    return () => {
      for (const key of leave) this.identities.put(key, undefined, batch);
      this.#sweep(batch);
    };
  }

  /** @returns the identities that lead nowhere now */
  #becomeIdentities(
    policy: DirectionPolicy,
    changed: ReadonlySet<NumericIdentity> | undefined,
    batch: ElementBatch,
  ): string[] {
    const leave: string[] = [];
    if (changed !== undefined) {
      for (const id of changed) {
        const of = policy.classOf(id);
        if (of.id === this.#unknown) leave.push(markKey(id));
        else this.#put(id, of, batch);
      }
      return leave;
    }
    const wanted = new Set<string>();
    for (const [id, of] of policy.identities()) {
      if (of.id === this.#unknown) continue;
      wanted.add(markKey(id));
      this.#put(id, of, batch);
    }
    for (const key of this.identities.held.keys()) if (!wanted.has(key)) leave.push(key);
    return leave;
  }

  #put(id: NumericIdentity, of: PolicyClass, batch: ElementBatch): void {
    if (id < CLASS_BIT) this.identities.put(markKey(id), this.#number(of.id), batch);
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
    const taken = new Set(this.#numbers.values()).add(UNKNOWN_CLASS);
    const equal = new Map<string, number[]>();
    for (const [number, rows] of this.rows) {
      if (taken.has(number)) continue;
      const content = contentOf(rows);
      const numbers = equal.get(content);
      if (numbers === undefined) equal.set(content, [number]);
      else numbers.push(number);
    }
    for (const [id, number] of this.#numbers) {
      if ((number === UNKNOWN_CLASS) !== (id === policy.unknownClass.id)) this.#numbers.delete(id);
    }
    this.#unknown = policy.unknownClass.id;
    this.#numbers.set(this.#unknown, UNKNOWN_CLASS);
    this.#rowsOf(UNKNOWN_CLASS);
    this.#free = [];
    for (let n = this.#next - 1; n > 0; n--) {
      const number = classNumber(n);
      if (!this.rows.has(number)) this.#free.push(number);
    }
    for (const [id, each] of classes) {
      if (this.#numbers.has(id) || equal.size === 0) continue;
      const number = equal.get(contentOf(rowElements(each, policy, audit)))?.pop();
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
      if (number !== UNKNOWN_CLASS) this.#free.push(number);
    }
  }
}

function contentOf(rows: RowElements): string {
  return [...rows]
    .map(([row, code]) => `${row}=${code}`)
    .sort()
    .join('\n');
}
