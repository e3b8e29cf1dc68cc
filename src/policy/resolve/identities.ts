import { type NumericIdentity, RESERVED, RESERVED_LABELS } from '../../core/identity.ts';
import { type LabelSet, labelSet, parseLabel } from '../../core/labels.ts';
import type { IdentityFacts } from './facts.ts';
import { NamedPorts, type NamedPortValue } from './named-ports.ts';

const RESERVED_SETS: ReadonlyMap<NumericIdentity, LabelSet> = new Map(
  [...RESERVED_LABELS].map(([id, labels]) => [id, labelSet(labels.map(parseLabel))]),
);

/** Labels and port names by identity, with the reserved ones from the start; notes what changed. */
export class IdentityTable implements IdentityFacts {
  /** Identities that changed since someone last emptied it. */
  readonly changed = new Set<NumericIdentity>();
  dualStack = false;
  readonly #labels = new Map<NumericIdentity, LabelSet>(RESERVED_SETS);
  readonly #namedPorts = new Map<NumericIdentity, NamedPorts>();

  set(id: NumericIdentity, labels: LabelSet | undefined): void {
    const now = labels ?? RESERVED_SETS.get(id);
    const before = this.#labels.get(id);
    if (before === now || (before !== undefined && now !== undefined && sameLabels(before, now))) return;
    if (now === undefined) this.#labels.delete(id);
    else this.#labels.set(id, now);
    this.changed.add(id);
    // The worlds of the families follow the world.
    if (id === RESERVED.world) this.changed.add(RESERVED.worldIpv4).add(RESERVED.worldIpv6);
  }

  setNamedPorts(id: NumericIdentity, values: readonly NamedPortValue[]): void {
    const ports = new NamedPorts(values);
    if (ports.size === 0 ? !this.#namedPorts.has(id) : ports.equals(this.#namedPorts.get(id))) return;
    if (ports.size === 0) this.#namedPorts.delete(id);
    else this.#namedPorts.set(id, ports);
    this.changed.add(id);
  }

  setDualStack(dualStack: boolean): void {
    if (this.dualStack === dualStack) return;
    this.dualStack = dualStack;
    this.changed.add(RESERVED.worldIpv4).add(RESERVED.worldIpv6);
  }

  labelsOf(id: NumericIdentity): LabelSet | undefined {
    return this.#labels.get(id);
  }

  has(id: NumericIdentity): boolean {
    return this.#labels.has(id);
  }

  all(): Iterable<readonly [NumericIdentity, LabelSet]> {
    return this.#labels;
  }

  namedPortsOf(id: NumericIdentity): NamedPorts | undefined {
    return this.#namedPorts.get(id);
  }

  withNamedPorts(): Iterable<NumericIdentity> {
    return this.#namedPorts.keys();
  }

  aliasOf(id: NumericIdentity): LabelSet | undefined {
    if (!this.dualStack || (id !== RESERVED.worldIpv4 && id !== RESERVED.worldIpv6)) return undefined;
    return this.#labels.get(RESERVED.world);
  }
}

function sameLabels(a: LabelSet, b: LabelSet): boolean {
  return a.length === b.length && a.every((label, index) => label.text === b[index]?.text);
}
