import type { Subject } from './resolve/active.ts';
import { selects } from './resolve/active.ts';
import type { CidrGroups } from './resolve/cidr-groups.ts';
import { isNamed } from './resolve/named-ports.ts';
import { compilePeers } from './resolve/peers.ts';
import type { Direction } from './result.ts';
import type { Rule } from './rule.ts';
import type { PolicySettings } from './settings.ts';

/** What one policy does at present. */
export interface PolicyEffect {
  /** Some of its rules select this machine. */
  readonly selecting: boolean;
  /** Directions that its selecting rules enforce. */
  readonly directions: readonly Direction[];
  /** How many entries are narrowed or without effect because the host cannot enforce them. */
  readonly heldBack: number;
  /** What is held back, or names something unknown; with path and line. */
  readonly messages: readonly string[];
}

export interface EffectContext {
  readonly subject: Subject | undefined;
  readonly groups: CidrGroups;
  readonly settings: PolicySettings;
}

const DIRECTIONS = ['ingress', 'egress'] as const;

export function describeEffect(rules: readonly Rule[], context: EffectContext): PolicyEffect {
  const labels = context.subject?.labels;
  const selecting = labels === undefined ? [] : rules.filter((rule) => selects(rule, labels));
  const enforces = (rule: Rule, direction: Direction): boolean =>
    rule[direction].allow.length + rule[direction].deny.length > 0;
  const messages = new Set<string>();
  let heldBack = 0;
  for (const rule of rules) {
    for (const direction of DIRECTIONS) {
      for (const entry of [...rule[direction].allow, ...rule[direction].deny]) {
        const place = `${entry.ref.path} (line ${entry.ref.line ?? 1})`;
        if (entry.heldBack.length > 0) heldBack++;
        // Some say themselves where in the entry.
        for (const why of entry.heldBack) messages.add(why.startsWith(entry.ref.path) ? why : `${place}: ${why}`);
        for (const group of compilePeers(entry, context, []).missingGroups) {
          messages.add(`${place}: the CIDR group ${group} is not known, it selects nobody`);
        }
        if (direction === 'egress' || !selecting.includes(rule)) continue;
        for (const match of entry.ports ?? []) {
          if (!isNamed(match) || context.subject?.namedPorts.resolve(match) !== undefined) continue;
          messages.add(`${place}: this machine offers no port named ${match.name}`);
        }
      }
    }
  }
  return {
    selecting: selecting.length > 0,
    directions: DIRECTIONS.filter((direction) => selecting.some((rule) => enforces(rule, direction))),
    heldBack,
    messages: [...messages],
  };
}
