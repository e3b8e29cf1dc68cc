import { type Label, makeLabel, parseLabel } from '../../core/labels.ts';
import type { Cursor } from './cursor.ts';

/** Labels of a rule: the user's, and those that name its origin (specification 17.4), sorted by key. */
export function readRuleLabels(items: readonly Cursor[], own: readonly string[]): readonly Label[] {
  const written = items.map((item) => {
    if (item.node.kind === 'scalar') return parseLabel(item.string());
    const fields = item.fields(['key', 'value', 'source']);
    return makeLabel(fields.string('source') ?? 'unspec', fields.string('key') ?? '', fields.string('value') ?? '');
  });
  return [...own.map(parseLabel), ...written].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
}

/** The labels that Cilium puts on the rules of an object. */
export function originLabels(object: {
  readonly kind: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
}): string[] {
  const label = (key: string, value: string): string[] =>
    value === '' ? [] : [`k8s:io.cilium.k8s.policy.${key}=${value}`];
  return [
    ...label('derived-from', object.kind),
    ...label('name', object.name),
    ...label('namespace', object.namespace),
    ...label('uid', object.uid),
  ];
}
