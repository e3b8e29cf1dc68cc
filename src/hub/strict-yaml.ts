import { isMap, isScalar, LineCounter, type Node, parseDocument, visit, type YAMLMap } from 'yaml';
import { nearest } from '../config/nearest.ts';
import { quote, Unacceptable, type ValueKind } from '../config/values.ts';
import { MeshError } from '../core/errors.ts';

const MAX_BYTES = 64 << 10;

export interface StrictYaml {
  readonly text: string;
  readonly file: string;
  /** By dotted name: `cluster.name`. */
  readonly keys: Readonly<Record<string, ValueKind<unknown>>>;
  readonly problems: MeshError[];
}

/** A file of known keys: unknown, repeated or wrong ones are problems, each with `file:line`. */
export function readStrictYaml(source: StrictYaml): {
  readonly values: Readonly<Record<string, unknown>>;
  placeOf(key: string): string;
} {
  const { text, file, keys, problems } = source;
  const lines = new LineCounter();
  const place = (offset: number | undefined): string => `${file}:${Math.max(1, lines.linePos(offset ?? 0).line)}`;
  const problem = (detail: string, offset?: number): void => {
    problems.push(new MeshError('HUB-CONFIG', detail, { place: place(offset) }));
  };
  const values: Record<string, unknown> = {};
  const places = new Map<string, number>();
  const result = { values, placeOf: (key: string) => place(places.get(key)) };
  if (text.length > MAX_BYTES) {
    problem(`more than ${MAX_BYTES} bytes`);
    return result;
  }
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, prettyErrors: false });
  for (const error of [...document.errors, ...document.warnings]) problem(error.message, error.pos[0]);
  visit(document, { Alias: (_key, node) => problem('references (*name) are not accepted', node.range?.[0]) });
  if (problems.length > 0) return result;

  const readMap = (map: YAMLMap<Node, Node | null>, prefix: string): void => {
    for (const { key, value } of map.items) {
      const offset = key.range?.[0];
      const name = `${prefix}${isScalar(key) ? String(key.value) : '?'}`;
      const kind = Object.hasOwn(keys, name) ? keys[name] : undefined;
      if (kind !== undefined) {
        if (offset !== undefined) places.set(name, offset);
        read(name, kind, value, offset);
      } else if (Object.keys(keys).some((known) => known.startsWith(`${name}.`))) {
        if (isMap(value)) readMap(value as YAMLMap<Node, Node | null>, `${name}.`);
        else problem(`${name}: a mapping is expected`, offset);
      } else {
        const groups = Object.keys(keys).flatMap((known) =>
          known.includes('.') ? [known.slice(0, known.indexOf('.'))] : [],
        );
        const guess = nearest(name, [...groups, ...Object.keys(keys)]);
        problem(`unknown key ${quote(name)}${guess === undefined ? '' : `; did you mean ${guess}?`}`, offset);
      }
    }
  };
  const read = (name: string, kind: ValueKind<unknown>, node: Node | null, offset: number | undefined): void => {
    try {
      values[name] = kind.read(node === null ? null : node.toJS(document));
    } catch (error) {
      if (!(error instanceof Unacceptable)) throw error;
      problem(`${name}: ${error.message}`, node?.range?.[0] ?? offset);
    }
  };
  const { contents } = document;
  if (isMap(contents)) readMap(contents as YAMLMap<Node, Node | null>, '');
  else problem('a mapping of keys to values is expected', contents?.range?.[0]);
  return result;
}
