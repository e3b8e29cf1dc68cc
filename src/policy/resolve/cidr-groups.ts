import type { Prefix } from '../../core/ip.ts';
import type { LabelSet } from '../../core/labels.ts';
import type { Selector } from '../rule.ts';
import { matches } from './match.ts';

/** One CIDR group object. */
export interface CidrGroup {
  readonly labels: LabelSet;
  readonly prefixes: readonly Prefix[];
}

export class CidrGroups {
  readonly #groups = new Map<string, CidrGroup>();

  set(name: string, group: CidrGroup | undefined): void {
    if (group === undefined) this.#groups.delete(name);
    else this.#groups.set(name, group);
  }

  get(name: string): CidrGroup | undefined {
    return this.#groups.get(name);
  }

  /** Prefixes of all groups whose labels match. */
  matching(selector: Selector): Prefix[] {
    return [...this.#groups.values()]
      .filter(({ labels }) => matches(selector, labels))
      .flatMap(({ prefixes }) => prefixes);
  }
}
