import { NAMESPACE_LABEL } from '../../core/labels.ts';
import { requirement } from '../resolve/match.ts';
import type { Requirement, Selector } from '../rule.ts';
import { type Cursor, shown } from './cursor.ts';

/** Label selectors (specification 4): read, checked, brought into normal form. */
export const OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist'] as const;

/** A requirement, and whether it was written under `matchLabels`. */
interface WrittenRequirement extends Requirement {
  readonly fromLabels: boolean;
}

export interface SelectorReading {
  /** How a written key becomes source and key. Default: `source:key`, `$key`, `reserved.key`, else any source. */
  readonly key?: (written: string) => readonly [source: string, key: string];
}

/** `null` is the wildcard. */
export function readSelector(at: Cursor, reading: SelectorReading = {}): readonly WrittenRequirement[] {
  if (at.isNull) return [];
  const fields = at.fields(['matchLabels', 'matchExpressions']);
  const keyOf = reading.key ?? splitKey;
  const result: WrittenRequirement[] = [];
  for (const [name, value, place] of fields.get('matchLabels')?.strings() ?? []) {
    const [source, key] = checkedKey(place, name, keyOf);
    checkValue(place, value);
    result.push({ ...requirement(source, key, 'In', [value]), fromLabels: true });
  }
  for (const item of fields.items('matchExpressions') ?? []) {
    result.push({ ...readExpression(item, keyOf), fromLabels: false });
  }
  return result;
}

function readExpression(at: Cursor, keyOf: (written: string) => readonly [string, string]): Requirement {
  const fields = at.fields(['key', 'operator', 'values']);
  const [source, key] = checkedKey(fields.get('key') ?? at, fields.string('key') ?? '', keyOf);
  const written = fields.string('operator') ?? '';
  const operator = OPERATORS.find((each) => each === written);
  if (operator === undefined) {
    return (fields.get('operator') ?? at).fail(
      `invalid label selector: ${shown(written)} is not a valid operator; known are ${OPERATORS.join(', ')}`,
    );
  }
  const values = (fields.items('values') ?? []).map((value) => {
    const text = value.string();
    checkValue(value, text);
    return text;
  });
  const needsValues = operator === 'In' || operator === 'NotIn';
  if (needsValues && values.length === 0) at.fail(`invalid label selector: ${operator} needs at least one value`);
  if (!needsValues && values.length > 0) at.fail(`invalid label selector: ${operator} takes no values`);
  return requirement(source, key, operator, values);
}

/** Only the first `:` counts; what follows a `=` is cut off (specification 4.2.1). */
export function splitKey(written: string): readonly [source: string, key: string] {
  const [source, key] = splitSource(written);
  const equals = key.indexOf('=');
  return [source, equals < 0 ? key : key.slice(0, equals)];
}

function splitSource(written: string): readonly [string, string] {
  if (written.startsWith('$')) return ['reserved', written.slice(1)];
  if (written.startsWith('reserved.')) return ['reserved', written.slice('reserved.'.length)];
  const colon = written.indexOf(':');
  return colon < 0 ? ['any', written] : [written.slice(0, colon), written.slice(colon + 1)];
}

const NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/;

function checkedKey(
  at: Cursor,
  written: string,
  keyOf: (written: string) => readonly [string, string],
): readonly [string, string] {
  const [source, key] = keyOf(written);
  const slash = key.indexOf('/');
  const prefix = slash < 0 ? undefined : key.slice(0, slash);
  const name = key.slice(slash + 1);
  if (prefix !== undefined && (prefix.length > 253 || !SUBDOMAIN.test(prefix))) {
    at.fail(`invalid label selector: the prefix of the key ${shown(written)} must be a lower-case DNS name`);
  }
  if (name.length > 63 || !NAME.test(name)) {
    at.fail(`invalid label selector: the key ${shown(written)} must be 1 to 63 letters, digits, "-", "_" or "."`);
  }
  return [source, key];
}

function checkValue(at: Cursor, value: string): void {
  if (value === '' || (value.length <= 63 && NAME.test(value))) return;
  at.fail(`invalid label selector: the value ${shown(value)} must be up to 63 letters, digits, "-", "_" or "."`);
}

export function names(selector: Selector, sources: readonly string[], key: string): boolean {
  return selector.some((each) => each.key === key && sources.includes(each.source));
}

/** Without what was written as `k8s:<namespace label>` under `matchLabels`: the policy's own namespace stands there. */
export function withoutNamespaceLabel(selector: readonly WrittenRequirement[]): {
  readonly rest: Selector;
  readonly dropped: readonly string[];
} {
  const isNamespace = (each: WrittenRequirement): boolean =>
    each.fromLabels && each.source === 'k8s' && each.key === NAMESPACE_LABEL;
  return {
    rest: selector.filter((each) => !isNamespace(each)),
    dropped: selector.filter(isNamespace).flatMap(({ values }) => values),
  };
}
