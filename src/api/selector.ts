import { MeshError } from '../core/errors.ts';
import { parseLabel } from '../core/labels.ts';

const MAX_TERMS = 64;

/**
 * The selector of `endpoint list --selector` and `identity list --selector`: terms with commas between them, all of
 * which must match: `k8s:app=web`, `app=web` (any source), `app` or `reserved:remote-node` (any value), `app!=web`.
 * @returns a test for the labels of a record, in the form `source:key=value`
 * @throws MeshError API-REQUEST
 */
export function parseSelector(text: string): (labels: readonly string[]) => boolean {
  const terms = text
    .split(',')
    .map((term) => term.trim())
    .filter((term) => term !== '');
  if (terms.length === 0 || terms.length > MAX_TERMS) {
    throw new MeshError('API-REQUEST', `a selector has 1 to ${MAX_TERMS} terms such as k8s:app=web`);
  }
  const tests = terms.map(parseTerm);
  return (labels) => tests.every((test) => test(labels));
}

function parseTerm(term: string): (labels: readonly string[]) => boolean {
  const not = term.includes('!=');
  const text = not ? term.replace('!=', '=') : term.replace('==', '=');
  const wanted = parseLabel(text);
  const anySource = wanted.source === 'unspec' || wanted.source === 'any';
  const anyValue = !text.includes('=');
  if (wanted.key === '') throw new MeshError('API-REQUEST', `${JSON.stringify(term)} names no label`);
  return (labels) =>
    not !==
    labels.some((label) => {
      const { source, key, value } = splitLabel(label);
      return key === wanted.key && (anySource || source === wanted.source) && (anyValue || value === wanted.value);
    });
}

/** Without interning: the labels of a list are looked at once. */
function splitLabel(label: string): { source: string; key: string; value: string } {
  const colon = label.indexOf(':');
  const equals = label.indexOf('=', colon + 1);
  return {
    source: label.slice(0, Math.max(0, colon)),
    key: label.slice(colon + 1, equals < 0 ? undefined : equals),
    value: equals < 0 ? '' : label.slice(equals + 1),
  };
}
