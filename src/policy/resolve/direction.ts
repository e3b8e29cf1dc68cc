import type { NumericIdentity } from '../../core/identity.ts';
import type { LabelSet } from '../../core/labels.ts';
import type { DirectionChanges, DirectionPolicy, PolicyClass } from '../result.ts';
import type { ActiveDirection, Unit } from './active.ts';
import { ClassTable } from './classes.ts';
import type { Contribution } from './contribution.ts';
import type { IdentityFacts } from './facts.ts';
import { matches } from './match.ts';
import { toRange } from './named-ports.ts';
import { SelectorIndex } from './selector-index.ts';

/**
 * One direction: which identity is in which class, and what the rows of each class are.
 *
 *     entries → units (entries with the same peers) → set of units that select an identity → class → rows
 *
 * `become` takes the rules that apply and the identities that changed, and does no more than these ask for.
 */
interface HeldUnit {
  readonly id: number;
  unit: Unit;
}

/** An element of the sets that make a class: a unit, or a unit with one of its port names resolved. */
type Element = { readonly unit: HeldUnit; readonly contributions: readonly Contribution[] };

/** Above this many new units all identities are placed afresh. */
const MANY_UNITS = 8;
/** Above this many selectors an index pays. */
const MANY_SELECTORS = 16;

export class Direction {
  active: ActiveDirection;
  readonly #facts: IdentityFacts;
  readonly #units = new Map<string, HeldUnit>();
  readonly #index = new SelectorIndex<HeldUnit>();
  readonly #elements = new Map<number, Element>();
  /** By unit: ids of its elements with a resolved port name, by what was resolved. */
  readonly #resolved = new Map<number, Map<string, number>>();
  readonly #classes: ClassTable;
  #nextId = 1;
  #hadNamed = false;

  constructor(active: ActiveDirection, facts: IdentityFacts) {
    this.active = active;
    this.#facts = facts;
    this.#classes = new ClassTable((elements) => ({
      contributions: this.contributionsOf(elements),
      auditedMiss: this.active.auditedMiss,
    }));
  }

  /** `changed`: identities with other labels or port names; those without labels are gone. */
  become(active: ActiveDirection, changed: ReadonlySet<NumericIdentity>): void {
    if (active !== this.active) this.#becomeActive(active, changed);
    for (const id of changed) this.#place(id);
    this.#classes.settle();
  }

  drain(): DirectionChanges {
    return this.#classes.drain();
  }

  /** A view of the present state: it changes with it. */
  view(): DirectionPolicy {
    const classes = this.#classes;
    const { enforcing, defaultDeny } = this.active;
    return {
      enforcing,
      defaultDeny,
      get unknownClass() {
        return classes.unknown;
      },
      classOf: (id) => classes.classOf(id),
      identities: () => classes.identities(),
      classes: (): Iterable<PolicyClass> => classes.classes(),
    };
  }

  /** The entries that select an identity. */
  contributionsFor(id: NumericIdentity): readonly Contribution[] {
    return this.contributionsOf(this.#classes.elementsOf(id));
  }

  contributionsOf(elements: readonly number[]): readonly Contribution[] {
    if (elements.length === 0) return this.active.everyone;
    const all = [...this.active.everyone];
    for (const id of elements) for (const each of this.#elements.get(id)?.contributions ?? []) all.push(each);
    return all;
  }

  #becomeActive(active: ActiveDirection, changed: ReadonlySet<NumericIdentity>): void {
    const before = this.active;
    this.active = active;
    if (!sameContributions(before.everyone, active.everyone) || !sameMiss(before, active)) this.#classes.dirtyAll();
    const gone = this.#removeUnits(active);
    const added = this.#addUnits(active);
    const named = [...active.units.values()].some((unit) => unit.named.length > 0);
    this.#replace(gone, added);
    // Whose port names count is worked out anew: names are few and seldom change.
    if (named || this.#hadNamed) for (const id of this.#facts.withNamedPorts()) if (!changed.has(id)) this.#place(id);
    this.#hadNamed = named;
  }

  #removeUnits(active: ActiveDirection): HeldUnit[] {
    const gone: HeldUnit[] = [];
    for (const [key, held] of this.#units) {
      const unit = active.units.get(key);
      if (unit !== undefined && hasPlain(unit) === hasPlain(held.unit)) this.#renew(held, unit);
      else {
        gone.push(held);
        this.#units.delete(key);
        this.#index.remove(held);
        this.#elements.delete(held.id);
        this.#forgetNamed(held);
      }
    }
    return gone;
  }

  #renew(held: HeldUnit, unit: Unit): void {
    const before = held.unit;
    held.unit = unit;
    this.#elements.set(held.id, { unit: held, contributions: unit.contributions });
    if (!sameContributions(before.contributions, unit.contributions)) this.#classes.dirty(held.id);
    if (before.named.length > 0 || unit.named.length > 0) this.#forgetNamed(held);
  }

  #addUnits(active: ActiveDirection): HeldUnit[] {
    const added: HeldUnit[] = [];
    for (const [key, unit] of active.units) {
      if (this.#units.has(key)) continue;
      const held = { id: this.#nextId++, unit };
      this.#units.set(key, held);
      this.#elements.set(held.id, { unit: held, contributions: unit.contributions });
      this.#index.add(held, unit.peers.everyone ? [[]] : unit.peers.selectors);
      added.push(held);
    }
    return added;
  }

  /** Resolved names get new elements, so that their classes are worked out anew. */
  #forgetNamed(held: HeldUnit): void {
    for (const id of this.#resolved.get(held.id)?.values() ?? []) this.#elements.delete(id);
    this.#resolved.delete(held.id);
  }

  #replace(gone: readonly HeldUnit[], added: readonly HeldUnit[]): void {
    if (added.length > MANY_UNITS) {
      for (const [id] of this.#facts.all()) this.#place(id);
      return;
    }
    if (gone.length > 0) this.#classes.removeElements(new Set(gone.map(({ id }) => id)));
    const plain = added.filter(({ unit }) => hasPlain(unit));
    if (plain.length === 0) return;
    const collect = collector(plain);
    for (const [id, labels] of this.#facts.all()) {
      const selecting = collect(labels);
      const alias = this.#facts.aliasOf(id);
      if (alias !== undefined) for (const each of collect(alias)) selecting.add(each);
      if (selecting.size > 0)
        this.#classes.addElements(
          id,
          [...selecting].map((held) => held.id),
        );
    }
  }

  #place(id: NumericIdentity): void {
    const labels = this.#facts.labelsOf(id);
    if (labels === undefined) {
      this.#classes.place(id, []);
      return;
    }
    const units = new Set<HeldUnit>();
    this.#index.collect(labels, units);
    const alias = this.#facts.aliasOf(id);
    if (alias !== undefined) this.#index.collect(alias, units);
    const elements: number[] = [];
    for (const held of units) {
      if (hasPlain(held.unit)) elements.push(held.id);
      if (held.unit.named.length > 0) this.#placeNamed(id, held, elements);
    }
    this.#classes.place(
      id,
      elements.sort((a, b) => a - b),
    );
  }

  #placeNamed(id: NumericIdentity, held: HeldUnit, elements: number[]): void {
    const ports = this.#facts.namedPortsOf(id);
    if (ports === undefined) return;
    const resolved = this.#resolved.get(held.id) ?? new Map<string, number>();
    this.#resolved.set(held.id, resolved);
    for (const [index, { ports: named, contribution }] of held.unit.named.entries()) {
      for (const each of named) {
        const port = ports.resolve(each);
        if (port === undefined) continue;
        const key = `${index} ${each.protocol} ${port}`;
        let element = resolved.get(key);
        if (element === undefined) {
          element = this.#nextId++;
          resolved.set(key, element);
          const ranges = [toRange(port, each.protocol)];
          this.#elements.set(element, { unit: held, contributions: [{ ...contribution, ranges }] });
        }
        if (!elements.includes(element)) elements.push(element);
      }
    }
  }
}

/** Whether being selected by the unit says anything: one with nothing but port names counts through these. */
function hasPlain(unit: Unit): boolean {
  return unit.contributions.length > 0;
}

/** Tells which of a few new units select labels: one by one, or with an index where there are many selectors. */
function collector(units: readonly HeldUnit[]): (labels: LabelSet) => Set<HeldUnit> {
  const selectors = units.reduce((count, { unit }) => count + unit.peers.selectors.length, 0);
  if (selectors <= MANY_SELECTORS) {
    return (labels) =>
      new Set(
        units.filter(({ unit }) => unit.peers.everyone || unit.peers.selectors.some((each) => matches(each, labels))),
      );
  }
  const index = new SelectorIndex<HeldUnit>();
  for (const held of units) index.add(held, held.unit.peers.selectors);
  return (labels) => {
    const selecting = new Set<HeldUnit>();
    index.collect(labels, selecting);
    return selecting;
  };
}

function sameContributions(a: readonly Contribution[], b: readonly Contribution[]): boolean {
  return a.length === b.length && a.every((each, index) => sameContribution(each, b[index] as Contribution));
}

function sameContribution(a: Contribution, b: Contribution): boolean {
  if (a.ref !== b.ref || a.deny !== b.deny || a.audit !== b.audit || a.authentication !== b.authentication)
    return false;
  if (a.ranges === undefined || b.ranges === undefined) return a.ranges === b.ranges;
  return (
    a.ranges.length === b.ranges.length &&
    a.ranges.every((range, index) => {
      const other = b.ranges?.[index];
      return range.protocol === other?.protocol && range.first === other.first && range.last === other.last;
    })
  );
}

function sameMiss(a: ActiveDirection, b: ActiveDirection): boolean {
  const [x, y] = [a.auditedMiss, b.auditedMiss];
  if (a.defaultDeny !== b.defaultDeny || x === undefined || y === undefined)
    return x === y && a.defaultDeny === b.defaultDeny;
  return x.length === y.length && x.every((ref, index) => ref === y[index]);
}
