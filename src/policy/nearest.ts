import type { Flow } from './explain.ts';
import type { ActiveDirection, Unit } from './resolve/active.ts';
import type { Contribution } from './resolve/contribution.ts';
import type { RuleRef } from './result.ts';
import type { PortRange, Requirement, Selector } from './rule.ts';

/** A rule that allows something like a flow, but not the flow itself. */
export interface NearRule {
  readonly ref: RuleRef;
  /** Undefined for every protocol and port. */
  readonly ports: readonly PortRange[] | undefined;
  /** Whom it allows, a selector each, in words; empty for everyone. */
  readonly peers: readonly string[];
}

export interface NearestRules {
  /** Allow this peer, on other ports. */
  readonly samePeer: readonly NearRule[];
  /** Allow this port, to other peers. */
  readonly samePort: readonly NearRule[];
}

/** Of each kind; an operator reads no more. */
const MAX_RULES = 5;
const MAX_SELECTORS = 3;

/** `selecting`: the entries that select the peer of the flow. */
export function nearestRules(flow: Flow, active: ActiveDirection, selecting: readonly Contribution[]): NearestRules {
  const samePeer: NearRule[] = [];
  const samePort: NearRule[] = [];
  const own = new Set(selecting);
  for (const each of active.everyone) {
    if (isUsable(each) && !covers(each, flow)) samePeer.push(nearRule(each, []));
  }
  for (const unit of active.units.values()) {
    for (const each of unit.contributions) {
      if (!isUsable(each)) continue;
      if (own.has(each)) {
        if (!covers(each, flow)) samePeer.push(nearRule(each, peersOf(unit)));
      } else if (covers(each, flow)) samePort.push(nearRule(each, peersOf(unit)));
    }
  }
  return { samePeer: samePeer.slice(0, MAX_RULES), samePort: samePort.slice(0, MAX_RULES) };
}

function isUsable({ deny, authentication }: Contribution): boolean {
  return !deny && (authentication === undefined || authentication === 'disabled');
}

function covers({ ranges }: Contribution, { protocol, port }: Flow): boolean {
  return (
    ranges === undefined ||
    ranges.some((range) => range.protocol === protocol && range.first <= port && port <= range.last)
  );
}

function nearRule({ ref, ranges }: Contribution, peers: readonly string[]): NearRule {
  return { ref, ports: ranges, peers };
}

function peersOf({ peers }: Unit): string[] {
  const shown = peers.selectors.slice(0, MAX_SELECTORS).map(selectorWords);
  const more = peers.selectors.length - shown.length;
  return more === 0 ? shown : [...shown, `and ${more} more`];
}

function selectorWords(selector: Selector): string {
  return selector.map(requirementWords).join(', ');
}

function requirementWords({ source, key, operator, values }: Requirement): string {
  const name = `${source}:${key}`;
  const [only] = values;
  switch (operator) {
    case 'In':
      return values.length === 1 ? `${name}=${only}` : `${name} in (${values.join(', ')})`;
    case 'NotIn':
      return values.length === 1 ? `${name}!=${only}` : `${name} not in (${values.join(', ')})`;
    case 'Exists':
      return name;
    case 'DoesNotExist':
      return `not ${name}`;
  }
}
