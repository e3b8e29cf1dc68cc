/**
 * Security labels: `source:key=value`. A label set is keyed by key alone: of two labels with one key the last wins
 * (Cilium 1.16, pkg/labels). Labels are interned: equal text gives the same object, so that a hundred thousand
 * identities share a few thousand labels.
 */
export interface Label {
  readonly source: string;
  readonly key: string;
  readonly value: string;
  /** Canonical text; `source:key` when the value is empty. */
  readonly text: string;
}

/** Sorted bytewise by key. Never mutated. */
export type LabelSet = readonly Label[];

export const CLUSTER_LABEL = 'io.cilium.k8s.policy.cluster';
export const NAMESPACE_LABEL = 'io.kubernetes.pod.namespace';

const INTERN_LIMIT = 1_000_000;
const interned = new Map<string, Label>();

export function makeLabel(source: string, key: string, value: string): Label {
  const text = value === '' ? `${source}:${key}` : `${source}:${key}=${value}`;
  const known = interned.get(text);
  if (known !== undefined && known.source === source && known.key === key) return known;
  const label: Label = { source, key, value, text };
  // A store that floods us with ever new labels must not pin memory for ever.
  if (interned.size >= INTERN_LIMIT) interned.clear();
  interned.set(text, label);
  return label;
}

/**
 * Reads one label. No `:` means source `unspec`; `$name`, `reserved.name` and `reserved:=name` are spellings of
 * `reserved:name` (Cilium pkg/labels, ParseLabel).
 */
export function parseLabel(text: string): Label {
  if (text.startsWith('$')) return makeLabel('reserved', text.slice(1), '');
  if (text.startsWith('reserved.')) return makeLabel('reserved', text.slice('reserved.'.length), '');
  const colon = text.indexOf(':');
  const source = colon < 0 ? 'unspec' : text.slice(0, colon);
  const rest = colon < 0 ? text : text.slice(colon + 1);
  const equals = rest.indexOf('=');
  if (equals < 0) return makeLabel(source, rest, '');
  if (equals === 0 && source === 'reserved') return makeLabel(source, rest.slice(1), '');
  return makeLabel(source, rest.slice(0, equals), rest.slice(equals + 1));
}

const byKey = (a: Label, b: Label): number => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key));
const asciiByKey = (a: Label, b: Label): number => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
// biome-ignore lint/suspicious/noControlCharactersInRegex: the range of ASCII, where string order is byte order
const ASCII = /^[\x00-\x7f]*$/;

/** Sorted, one label per key, the last one given wins. */
export function labelSet(labels: Iterable<Label>): LabelSet {
  const unique = new Map<string, Label>();
  let ascii = true;
  for (const label of labels) {
    unique.set(label.key, label);
    ascii &&= ASCII.test(label.key);
  }
  return [...unique.values()].sort(ascii ? asciiByKey : byKey);
}

/** The kvstore form: `source:key=value;` for each label, sorted (kvstore specification 2.4.1). Empty values print `=`. */
export function encodeLabels(labels: LabelSet): string {
  return labels.map((label) => `${label.source}:${label.key}=${label.value};`).join('');
}

/** Reads the kvstore form. Empty items are dropped, as Cilium does. */
export function decodeLabels(text: string): LabelSet {
  return labelSet(
    text
      .split(';')
      .filter((item) => item !== '')
      .map(parseLabel),
  );
}

export function findLabel(labels: LabelSet, key: string): Label | undefined {
  return labels.find((label) => label.key === key);
}

export function labelTexts(labels: LabelSet): string[] {
  return labels.map((label) => label.text);
}
