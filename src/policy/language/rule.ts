import type { Entry, Rule, RuleSection } from '../rule.ts';
import type { Cursor, Fields } from './cursor.ts';
import { displayRule } from './display.ts';
import { readEntry } from './entry.ts';
import { readRuleLabels } from './rule-labels.ts';
import { readSubject, type Scope } from './scope.ts';

/** One rule: `spec`, an item of `specs`, or a raw rule (specification 3). */
export interface RuleReading {
  readonly scope: Scope;
  readonly audit: boolean;
  /** A `nodeSelector` is refused: in `spec` of a namespaced policy. */
  readonly noNodes: boolean;
  /** The labels that Cilium adds. */
  readonly ownLabels: readonly string[];
}

export const RULE_FIELDS = [
  'endpointSelector',
  'nodeSelector',
  'ingress',
  'ingressDeny',
  'egress',
  'egressDeny',
  'enableDefaultDeny',
  'labels',
  'description',
  'log',
] as const;

export function readRule(at: Cursor, reading: RuleReading): Rule {
  const fields = at.fields(RULE_FIELDS);
  const { kind, selector } = readRuleSubject(at, fields, reading);
  const labels = readRuleLabels(fields.items('labels') ?? [], reading.ownLabels);
  fields.string('description');
  fields.get('log')?.fields(['value']).string('value');
  const toggles = fields.get('enableDefaultDeny')?.fields(['ingress', 'egress']);
  const section = (direction: 'ingress' | 'egress'): RuleSection => {
    const base = { scope: reading.scope, subject: selector, direction, onHost: kind === 'node' };
    const read = (name: string, deny: boolean): Entry[] =>
      (fields.items(name) ?? []).map((item) => readEntry(item, { ...base, deny }));
    return {
      allow: read(direction, false),
      deny: read(`${direction}Deny`, true),
      defaultDeny: toggles?.get(direction)?.boolean(),
    };
  };
  const sections = { ingress: section('ingress'), egress: section('egress') };
  if (Object.values(sections).every(({ allow, deny }) => allow.length + deny.length === 0)) {
    at.context.warn(at, 'the rule has no entry in ingress, ingressDeny, egress or egressDeny: it has no effect');
  }
  return {
    ref: { policy: at.context.policy, path: at.path, line: at.line },
    subject: { kind, selector },
    ...sections,
    audit: reading.audit,
    display: displayRule(fields, { kind, selector, ...sections, labels }),
  };
}

function readRuleSubject(at: Cursor, fields: Fields, reading: RuleReading): Rule['subject'] {
  const endpoint = fields.raw('endpointSelector');
  const node = fields.raw('nodeSelector');
  if (endpoint !== undefined && node !== undefined) {
    at.fail('rule cannot have both EndpointSelector and NodeSelector');
  }
  if (node !== undefined) {
    if (reading.noNodes) node.fail('rule cannot have NodeSelector: only clusterwide policies may');
    return { kind: 'node', selector: readSubject(node, { kind: 'raw' }) };
  }
  if (endpoint === undefined) return at.fail('rule must have one of EndpointSelector or NodeSelector');
  return { kind: 'endpoint', selector: readSubject(endpoint, reading.scope) };
}
