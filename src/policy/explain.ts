import type { NumericIdentity } from '../core/identity.ts';
import type { ActiveDirection } from './resolve/active.ts';
import type { Contribution } from './resolve/contribution.ts';
import { type Decision, decide, type Match, refsOfDecision } from './resolve/decision.ts';
import type { Direction, RuleRef, Verdict } from './result.ts';

/** The first packet of a connection. */
export interface Flow {
  readonly direction: Direction;
  /** Of the peer. */
  readonly identity: NumericIdentity;
  /** IP protocol number. */
  readonly protocol: number;
  /** Destination port, or ICMP type. */
  readonly port: number;
}

export interface Explanation {
  readonly verdict: Verdict;
  /** The denial is reported, not applied. */
  readonly audit: boolean;
  readonly reason:
    | 'not-enforced'
    | 'denied-by-rule'
    | 'allowed-by-rule'
    | 'no-default-deny'
    | 'default-deny'
    | 'needs-authentication';
  /** The rules that decide; those that ask for default deny when nothing matched. */
  readonly rules: readonly RuleRef[];
}

export function explainFlow(flow: Flow, active: ActiveDirection, contributions: readonly Contribution[]): Explanation {
  const matching = contributions.flatMap((contribution) => matchOf(contribution, flow));
  const decision = decide(matching, active.auditedMiss !== undefined);
  const verdict = decision.outcome === 'allow' ? 'allow' : 'deny';
  const audit = decision.outcome === 'audited-deny';
  const rules = refsOfDecision(decision, active.miss);
  return { verdict, audit, reason: reasonOf(decision, active, rules), rules };
}

function matchOf(contribution: Contribution, { protocol, port }: Flow): Match[] {
  const { ranges } = contribution;
  if (ranges === undefined) return [{ contribution, width: Number.POSITIVE_INFINITY }];
  const widths = ranges
    .filter((range) => range.protocol === protocol && range.first <= port && port <= range.last)
    .map(({ first, last }) => last - first + 1);
  return widths.length === 0 ? [] : [{ contribution, width: Math.min(...widths) }];
}

function reasonOf({ reason }: Decision, active: ActiveDirection, rules: readonly RuleRef[]): Explanation['reason'] {
  if (!active.enforcing) return 'not-enforced';
  if (reason === 'denied') return 'denied-by-rule';
  if (reason === 'needs-authentication') return reason;
  if (reason === 'nothing-matched') return 'default-deny';
  // The rule that allows everyone without default deny has no policy behind it.
  const written = rules.some(
    ({ policy }) => policy !== 'implicit/allow-any-ingress' && policy !== 'implicit/allow-any-egress',
  );
  return written ? 'allowed-by-rule' : 'no-default-deny';
}
