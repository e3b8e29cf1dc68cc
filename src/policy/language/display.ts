import type { Label } from '../../core/labels.ts';
import type { Entry, PeerSelector, RuleSection, Selector } from '../rule.ts';
import type { Cursor, Fields } from './cursor.ts';

/** Rules as `cilium-dbg policy get` prints them (specification 20.1): selectors with what scoping added, `source:key`. */
interface Displayed {
  readonly kind: 'endpoint' | 'node';
  readonly selector: Selector;
  readonly ingress: RuleSection;
  readonly egress: RuleSection;
  readonly labels: readonly Label[];
}

type Shown = Record<string, unknown>;

export function displayRule(fields: Fields, rule: Displayed): Shown {
  const shown: Shown = { [rule.kind === 'node' ? 'nodeSelector' : 'endpointSelector']: displaySelector(rule.selector) };
  for (const direction of ['ingress', 'egress'] as const) {
    for (const deny of [false, true]) {
      const name = deny ? `${direction}Deny` : direction;
      const items = fields.items(name);
      const entries = deny ? rule[direction].deny : rule[direction].allow;
      if (items !== undefined) shown[name] = items.map((item, index) => displayEntry(item, entries[index]));
    }
  }
  return { ...shown, ...displayTail(rule, fields.string('description')) };
}

export function displayTail(
  rule: Pick<Displayed, 'ingress' | 'egress' | 'labels'>,
  description: string | undefined,
): Shown {
  return {
    ...(rule.labels.length === 0 ? {} : { labels: rule.labels.map(displayLabel) }),
    enableDefaultDeny: { ingress: defaultDeny(rule.ingress), egress: defaultDeny(rule.egress) },
    ...(description === undefined ? {} : { description }),
  };
}

function displayEntry(item: Cursor, entry: Entry | undefined): unknown {
  const plain = item.plain;
  if (entry === undefined || typeof plain !== 'object' || plain === null) return plain;
  const shown: Shown = { ...plain };
  const { peers } = entry;
  for (const name of Object.keys(shown)) {
    const selectors = name.endsWith('Requires') ? entry.requires : 'selectors' in peers ? peers.selectors : [];
    if (!/^(?:from|to)(?:Endpoints|Requires|Nodes)$/.test(name) || selectors.length === 0) continue;
    shown[name] = selectors.map(({ requirements }: PeerSelector) => displaySelector(requirements));
  }
  return shown;
}

export function displaySelector(selector: Selector): Shown {
  const labels: Record<string, string> = {};
  const expressions: Shown[] = [];
  for (const { source, key, operator, values } of selector) {
    const name = `${source}:${key}`;
    const [value] = values;
    if (operator === 'In' && values.length === 1 && value !== undefined && labels[name] === undefined) {
      labels[name] = value;
    } else expressions.push({ key: name, operator, ...(values.length === 0 ? {} : { values }) });
  }
  return {
    ...(Object.keys(labels).length === 0 ? {} : { matchLabels: labels }),
    ...(expressions.length === 0 ? {} : { matchExpressions: expressions }),
  };
}

function displayLabel({ key, value, source }: Label): Shown {
  return { key, ...(value === '' ? {} : { value }), source };
}

function defaultDeny(section: RuleSection): boolean {
  return section.defaultDeny ?? section.allow.length + section.deny.length > 0;
}
