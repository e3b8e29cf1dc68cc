import type { RuleRef } from '../result.ts';
import type { Authentication, PortRange } from '../rule.ts';

/** What one entry adds to the classes of the identities that it selects. */
export interface Contribution {
  readonly ref: RuleRef;
  readonly deny: boolean;
  /** Of an audited policy: its denials are reported, not applied. */
  readonly audit: boolean;
  /** Undefined for every protocol and port. */
  readonly ranges: readonly PortRange[] | undefined;
  /** Holds for every identity, not for selected ones: such entries are less specific. */
  readonly everyone: boolean;
  readonly authentication: Authentication | undefined;
}

/** Sorted, without doubles. */
export function refsOf(contributions: readonly Contribution[]): RuleRef[] {
  const [first] = contributions;
  if (first !== undefined && contributions.length === 1) return [first.ref];
  const refs = new Set<RuleRef>();
  for (const { ref } of contributions) refs.add(ref);
  return [...refs].sort(byPlace);
}

function byPlace(a: RuleRef, b: RuleRef): number {
  if (a.policy !== b.policy) return a.policy < b.policy ? -1 : 1;
  return (a.line ?? 0) - (b.line ?? 0) || (a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
}
