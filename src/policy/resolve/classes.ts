import type { NumericIdentity } from '../../core/identity.ts';
import type { DirectionChanges, PolicyClass } from '../result.ts';
import { computeRows, type RowsInput, sameRows } from './rows.ts';

/**
 * Identities by the set of elements that select them; each set is a class. Sets are interned, so that an identity costs
 * one pointer. When all members of a class move to a new set, the set keeps the number of the class: a policy that is
 * replaced then changes a few rows, not the class of fifty thousand identities.
 */
interface Members {
  /** Sorted. */
  readonly elements: readonly number[];
  readonly key: string;
  count: number;
  /** 0 until `settle`. */
  id: number;
  class: PolicyClass | undefined;
  stale: boolean;
}

export class ClassTable {
  readonly #rowsInput: (elements: readonly number[]) => RowsInput;
  readonly #sets = new Map<string, Members>();
  /** Those in `#nobody` are left out. */
  readonly #of = new Map<NumericIdentity, Members>();
  /** What no selector selects, unknown numbers included. */
  readonly #nobody: Members;
  #nextId = 2;
  /** Where identities were before this round. */
  readonly #moved = new Map<NumericIdentity, Members>();
  readonly #dirty = new Set<number>();
  #changedIdentities = new Set<NumericIdentity>();
  #changedClasses = new Set<number>();

  constructor(rowsInput: (elements: readonly number[]) => RowsInput) {
    this.#rowsInput = rowsInput;
    this.#nobody = { elements: [], key: '', count: 0, id: 1, class: undefined, stale: true };
    this.#sets.set('', this.#nobody);
  }

  get unknown(): PolicyClass {
    return this.#classOf(this.#nobody);
  }

  classOf(id: NumericIdentity): PolicyClass {
    return this.#classOf(this.#of.get(id) ?? this.#nobody);
  }

  elementsOf(id: NumericIdentity): readonly number[] {
    return (this.#of.get(id) ?? this.#nobody).elements;
  }

  *identities(): Iterable<readonly [NumericIdentity, PolicyClass]> {
    for (const [id, members] of this.#of) yield [id, this.#classOf(members)];
  }

  *classes(): Iterable<PolicyClass> {
    for (const members of this.#sets.values()) yield this.#classOf(members);
  }

  /** `elements` sorted. */
  place(id: NumericIdentity, elements: readonly number[]): void {
    this.#move(id, this.#intern(elements));
  }

  addElements(id: NumericIdentity, elements: readonly number[]): void {
    const before = this.elementsOf(id);
    this.place(
      id,
      [...new Set([...before, ...elements])].sort((a, b) => a - b),
    );
  }

  removeElements(gone: ReadonlySet<number>): void {
    const instead = new Map<Members, Members>();
    for (const members of [...this.#sets.values()]) {
      const rest = members.elements.filter((element) => !gone.has(element));
      if (rest.length < members.elements.length) instead.set(members, this.#intern(rest));
    }
    if (instead.size === 0) return;
    for (const [id, members] of this.#of) {
      const other = instead.get(members);
      if (other !== undefined) this.#move(id, other);
    }
  }

  /** The rows of classes with this element have to be worked out anew. */
  dirty(element: number): void {
    this.#dirty.add(element);
  }

  dirtyAll(): void {
    for (const members of this.#sets.values()) members.stale = true;
  }

  /** Ends a round of changes: numbers for new classes, rows for stale ones. */
  settle(): void {
    this.#inherit();
    for (const members of this.#sets.values()) {
      if (this.#dirty.size > 0) members.stale ||= members.elements.some((element) => this.#dirty.has(element));
      if (members.count === 0 && members !== this.#nobody) this.#drop(members);
      else {
        if (members.id === 0) {
          members.id = this.#nextId++;
          this.#changedClasses.add(members.id);
        }
        if (members.stale) this.#renewRows(members);
      }
    }
    for (const [id, before] of this.#moved) {
      const now = this.#of.get(id) ?? this.#nobody;
      if (now.id !== before.id) this.#changedIdentities.add(id);
    }
    this.#moved.clear();
    this.#dirty.clear();
  }

  drain(): DirectionChanges {
    const changes = { identities: this.#changedIdentities, classes: this.#changedClasses };
    this.#changedIdentities = new Set();
    this.#changedClasses = new Set();
    return changes;
  }

  #classOf(members: Members): PolicyClass {
    return members.class ?? this.#renewRows(members);
  }

  #renewRows(members: Members): PolicyClass {
    const rows = computeRows(this.#rowsInput(members.elements));
    const before = members.class;
    if (before === undefined || before.id !== members.id || !sameRows(before.rows, rows)) {
      this.#changedClasses.add(members.id);
    }
    members.class = { id: members.id, rows };
    members.stale = false;
    return members.class;
  }

  /** A new set takes over the class that most of its members leave, if nobody stays there. */
  #inherit(): void {
    const origins = new Map<Members, Map<Members, number>>();
    for (const [id, before] of this.#moved) {
      const now = this.#of.get(id) ?? this.#nobody;
      if (now.id !== 0 || before.count > 0 || before === this.#nobody) continue;
      const counts = origins.get(now) ?? new Map<Members, number>();
      origins.set(now, counts.set(before, (counts.get(before) ?? 0) + 1));
    }
    for (const [members, counts] of origins) {
      const [from] = [...counts].filter(([before]) => before.id !== 0).sort(([, a], [, b]) => b - a)[0] ?? [];
      if (from === undefined) continue;
      members.id = from.id;
      members.class = from.class;
      members.stale = true;
      from.id = 0;
      // Its members are compared by number: they are where they were.
      for (const [id, before] of this.#moved) {
        if (before === from && this.#of.get(id) === members) this.#moved.set(id, members);
      }
    }
  }

  #drop(members: Members): void {
    this.#sets.delete(members.key);
    if (members.id !== 0) this.#changedClasses.add(members.id);
  }

  #intern(elements: readonly number[]): Members {
    const key = elements.join(' ');
    const known = this.#sets.get(key);
    if (known !== undefined) return known;
    const members = { elements, key, count: 0, id: 0, class: undefined, stale: true };
    this.#sets.set(key, members);
    return members;
  }

  #move(id: NumericIdentity, to: Members): void {
    const from = this.#of.get(id) ?? this.#nobody;
    if (from === to) return;
    if (!this.#moved.has(id)) this.#moved.set(id, from);
    from.count--;
    to.count++;
    if (to === this.#nobody) this.#of.delete(id);
    else this.#of.set(id, to);
  }
}
