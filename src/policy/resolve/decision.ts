import type { RuleRef } from '../result.ts';
import { type Contribution, refsOf } from './contribution.ts';

/** The verdict on one flow from the entries that match it (specification 1), with audit and authentication. */
export type Outcome = 'allow' | 'deny' | 'audited-deny' | 'none';

/** An entry that matches; `width` is how many ports it covers, infinite without ports. */
export interface Match {
  readonly contribution: Contribution;
  readonly width: number;
}

export interface Decision {
  readonly outcome: Outcome;
  /** The entries that decide; empty when nothing matched. */
  readonly by: readonly Contribution[];
  readonly reason: 'denied' | 'allowed' | 'needs-authentication' | 'nothing-matched';
}

/** `missIsAudited`: default deny comes from audited policies alone, so that what nothing matches would pass. */
export function decide(matching: readonly Match[], missIsAudited: boolean): Decision {
  const [only] = matching;
  if (only !== undefined && matching.length === 1 && isPlain(only.contribution)) {
    return { outcome: 'allow', by: [only.contribution], reason: 'allowed' };
  }
  const denies: Contribution[] = [];
  const allows: Match[] = [];
  let authenticated = false;
  for (const match of matching) {
    const { contribution } = match;
    if (contribution.deny) denies.push(contribution);
    else allows.push(match);
    authenticated ||= needsAuthentication(contribution);
  }
  const hard = denies.filter(({ audit }) => !audit);
  if (hard.length > 0) return { outcome: 'deny', by: hard, reason: 'denied' };
  const blockers = authenticated ? unauthenticated(allows) : [];
  const hardBlockers = blockers.filter(({ audit }) => !audit);
  if (hardBlockers.length > 0) return { outcome: 'deny', by: hardBlockers, reason: 'needs-authentication' };
  const usable = allows.map(({ contribution }) => contribution).filter((each) => !needsAuthentication(each));
  const soft = [...denies, ...blockers];
  if (soft.length > 0) {
    // Without the audited denials the flow has to pass, else it is denied in earnest.
    const outcome = usable.length > 0 || missIsAudited ? 'audited-deny' : 'deny';
    return { outcome, by: soft, reason: denies.length > 0 ? 'denied' : 'needs-authentication' };
  }
  if (usable.length > 0) return { outcome: 'allow', by: usable, reason: 'allowed' };
  return { outcome: missIsAudited ? 'audited-deny' : 'none', by: [], reason: 'nothing-matched' };
}

/** By far the most frequent: something allows, and nothing else is to be said. */
function isPlain({ deny, authentication }: Contribution): boolean {
  return !deny && authentication === undefined;
}

function needsAuthentication({ authentication }: Contribution): boolean {
  return authentication === 'required' || authentication === 'test-always-fail';
}

/**
 * The entries that demand authentication and have the say, or none. The most specific matching entry decides; without a
 * setting of its own it takes that of the next wider one (specification 10.2 to 10.4); between equals the stricter wins.
 */
function unauthenticated(allows: readonly Match[]): Contribution[] {
  const ordered = [...allows].sort(
    (a, b) => byWidth(a.width, b.width) || Number(a.contribution.everyone) - Number(b.contribution.everyone),
  );
  const [first] = ordered;
  if (first === undefined) return [];
  for (let start = 0; start < ordered.length; ) {
    const at = ordered[start] as Match;
    let end = start + 1;
    while (end < ordered.length && sameRank(at, ordered[end] as Match)) end++;
    const group = ordered.slice(start, end).map(({ contribution }) => contribution);
    const wider = at.contribution.everyone || !first.contribution.everyone;
    if (wider && group.some(({ authentication }) => authentication !== undefined)) {
      return group.filter(needsAuthentication);
    }
    start = end;
  }
  return [];
}

function byWidth(a: number, b: number): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

function sameRank(a: Match, b: Match): boolean {
  return a.width === b.width && a.contribution.everyone === b.contribution.everyone;
}

export function refsOfDecision({ by }: Decision, miss: readonly RuleRef[]): readonly RuleRef[] {
  return by.length === 0 ? miss : refsOf(by);
}
