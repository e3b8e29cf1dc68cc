import type { DirectionChanges, DirectionPolicy, PolicyClass } from '../../policy/result.ts';
import { type ElementBatch, type SetShape, SHAPES } from './elements.ts';
import { markKey, type RowElements, rowAddress, rowElements } from './keys.ts';
import { CLASS_BIT, UNKNOWN_CLASS } from './ruleset.ts';
import { SetTracker } from './tracker.ts';

/** Classes of one direction in the kernel: numbers, rows, and the identities that lead to them. */
export class ClassTracker {
  readonly side: 'in' | 'out';
  /** Class number to its rows. */
  readonly rows = new Map<number, RowElements>();
  readonly identities: SetTracker;
  readonly #numbers = new Map<number, number>();
  #unknown = -1;
  #next = CLASS_BIT + 1;

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
    this.#unknown = -1;
    this.#next = CLASS_BIT + 1;
  }

  /** Told while the kernel is read. */
  holdRow(number: number, row: string, code: number): void {
    const rows = this.rows.get(number) ?? new Map<string, number>();
    this.rows.set(number, rows);
    rows.set(row, code);
    this.#next = Math.max(this.#next, number + 1);
  }

  /** Writes the way to `policy`. What goes out of use is left to the function returned: rows go after all that leads to them. */
  become(
    policy: DirectionPolicy,
    options: { changes?: DirectionChanges | undefined; audit: boolean },
    batch: ElementBatch,
  ): () => void {
    const everything = options.changes === undefined || policy.unknownClass.id !== this.#unknown;
    const classes = new Map<number, PolicyClass>([...policy.classes()].map((each) => [each.id, each]));
    classes.set(policy.unknownClass.id, policy.unknownClass);
    if (everything) this.#numberAll(classes, policy, options.audit);
    const ids = everything ? classes.keys() : (options.changes?.classes ?? []);
    for (const id of ids) {
      const each = classes.get(id);
      if (each !== undefined) this.#becomeRows(this.#number(id), rowElements(each, policy, options.audit), batch);
    }
    this.#becomeIdentities(policy, everything ? undefined : options.changes?.identities, batch);
    for (const id of [...this.#numbers.keys()]) if (!classes.has(id)) this.#numbers.delete(id);
    return () => this.#sweep(batch);
  }

  #becomeIdentities(policy: DirectionPolicy, changed: ReadonlySet<number> | undefined, batch: ElementBatch): void {
    if (changed !== undefined) {
      for (const id of changed) {
        const of = policy.classOf(id as Parameters<DirectionPolicy['classOf']>[0]);
        this.identities.put(markKey(id), of.id === this.#unknown ? undefined : this.#number(of.id), batch);
      }
      return;
    }
    const wanted = new Map<string, number>();
    for (const [id, of] of policy.identities())
      if (of.id !== this.#unknown) wanted.set(markKey(id), this.#number(of.id));
    this.identities.become(wanted, batch);
  }

  #number(id: number): number {
    const number = this.#numbers.get(id) ?? this.#next++;
    this.#numbers.set(id, number);
    return number;
  }

  /** After a restart classes take the numbers of equal rows, so that what is right stays untouched. */
  #numberAll(classes: ReadonlyMap<number, PolicyClass>, policy: DirectionPolicy, audit: boolean): void {
    const free = new Map<string, number[]>();
    const taken = new Set(this.#numbers.values());
    for (const [number, rows] of this.rows) {
      if (number === UNKNOWN_CLASS || taken.has(number)) continue;
      const content = contentOf(rows);
      free.set(content, [...(free.get(content) ?? []), number]);
    }
    for (const [id, number] of this.#numbers) {
      if (number === UNKNOWN_CLASS && id !== policy.unknownClass.id) this.#numbers.delete(id);
    }
    this.#unknown = policy.unknownClass.id;
    this.#numbers.set(this.#unknown, UNKNOWN_CLASS);
    for (const [id, each] of classes) {
      if (this.#numbers.has(id)) continue;
      const number = free.get(contentOf(rowElements(each, policy, audit)))?.pop();
      if (number !== undefined) this.#numbers.set(id, number);
    }
  }

  #becomeRows(number: number, wanted: RowElements, batch: ElementBatch): void {
    const held = this.rows.get(number) ?? new Map<string, number>();
    this.rows.set(number, held);
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
    for (const [number, rows] of [...this.rows]) {
      if (used.has(number)) continue;
      for (const [row, code] of [...rows]) this.#remove(number, row, code, batch);
      this.rows.delete(number);
    }
  }
}

function contentOf(rows: RowElements): string {
  return [...rows]
    .map(([row, code]) => `${row}=${code}`)
    .sort()
    .join('\n');
}
