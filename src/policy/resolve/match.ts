import { type Family, type Prefix, parsePrefix } from '../../core/ip.ts';
import type { Label, LabelSet } from '../../core/labels.ts';
import type { Operator, Requirement, Selector } from '../rule.ts';

/** Matching of selectors against labels (specification 4.3). */
export function requirement(
  source: string,
  key: string,
  operator: Operator,
  values: readonly string[] = [],
): Requirement {
  return { source, key, operator, values: [...new Set(values)].sort() };
}

export function matches(selector: Selector, labels: LabelSet): boolean {
  for (const each of selector) if (!holds(each, labels)) return false;
  return true;
}

function holds(each: Requirement, labels: LabelSet): boolean {
  switch (each.operator) {
    case 'In':
      return found(each, labels, true);
    case 'NotIn':
      return !found(each, labels, true);
    case 'Exists':
      return found(each, labels, false);
    case 'DoesNotExist':
      return !found(each, labels, false);
  }
}

function found(each: Requirement, labels: LabelSet, valued: boolean): boolean {
  for (const label of labels) {
    if (keyFits(each, label) && (!valued || each.values.includes(label.value))) return true;
  }
  return false;
}

function keyFits(each: Requirement, label: Label): boolean {
  if (each.source === 'cidr') {
    if (label.source !== 'cidr') return false;
    const outer = prefixOfKey(each.key);
    const inner = prefixOfKey(label.key);
    return outer !== undefined && inner !== undefined ? within(outer, inner) : each.key === label.key;
  }
  return each.key === label.key && (each.source === 'any' || each.source === label.source);
}

/** `contains` of core, without making a prefix for each comparison: this is the innermost loop. */
function within(outer: Prefix, inner: Prefix): boolean {
  if (outer.family !== inner.family || outer.bits > inner.bits) return false;
  for (let i = 0; i * 32 < outer.bits; i++) {
    const keep = Math.min(32, outer.bits - i * 32);
    const difference = (outer.words[i] as number) ^ (inner.words[i] as number);
    if (difference >>> (32 - keep) !== 0) return false;
  }
  return true;
}

const MAX_KNOWN = 200_000;
const knownKeys = new Map<string, Prefix | undefined>();

/** The prefix that the key of a `cidr` label names, or undefined. IPv6 colons are written as `-` (specification 4.3.3). */
export function prefixOfKey(key: string): Prefix | undefined {
  if (knownKeys.has(key)) return knownKeys.get(key);
  const prefix = parsePrefix(key) ?? parsePrefix(ipv6Text(key));
  if (knownKeys.size >= MAX_KNOWN) knownKeys.clear();
  knownKeys.set(key, prefix);
  return prefix;
}

function ipv6Text(key: string): string {
  const slash = key.indexOf('/');
  const [address, bits] = slash < 0 ? [key, ''] : [key.slice(0, slash), key.slice(slash)];
  // A zero was put where the text would start or end with a dash: `0--1` reads `0::1`, which is the same address.
  return address.replaceAll('-', ':') + bits;
}

/** The key of a `cidr` label. */
export function cidrKey(text: string, family: Family): string {
  if (family === 4) return text;
  const slash = text.indexOf('/');
  const address = text.slice(0, slash).replaceAll(':', '-');
  const front = address.startsWith('-') ? '0' : '';
  const back = address.endsWith('-') ? '0' : '';
  return front + address + back + text.slice(slash);
}

export function cidrLabelOf(labels: LabelSet): Prefix | undefined {
  for (const label of labels) if (label.source === 'cidr') return prefixOfKey(label.key);
  return undefined;
}

/** Equal for selectors that match the same, apart from order. */
export function selectorText(selector: Selector): string {
  return selector.map(requirementText).sort().join(' && ');
}

function requirementText({ source, key, operator, values }: Requirement): string {
  const name = `${source}:${key}`;
  return values.length === 0 ? `${operator} ${name}` : `${operator} ${name} [${values.join(' ')}]`;
}
