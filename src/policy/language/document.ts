import { isAlias, isMap, isScalar, isSeq, LineCounter, parseAllDocuments } from 'yaml';
import { LanguageError } from './language-error.ts';

/**
 * The values of a YAML or JSON text, each with its line. YAML is read with the scalars of 1.1, as Cilium does
 * (specification 2.9). Aliases share what they name; sizes count what they expand to, so that a bomb is found before
 * anyone walks it.
 */
export type Node = ScalarNode | ListNode | MapNode;

export interface ScalarNode {
  readonly kind: 'scalar';
  readonly line: number;
  readonly value: string | number | bigint | boolean | null;
}

export interface ListNode {
  readonly kind: 'list';
  readonly line: number;
  readonly items: readonly Node[];
}

export interface MapNode {
  readonly kind: 'map';
  readonly line: number;
  readonly entries: ReadonlyMap<string, Node>;
}

export interface TextDocument {
  readonly index: number;
  readonly line: number;
  readonly root: Node;
}

/** A Kubernetes object is smaller than this, for etcd takes no larger request. */
export const MAX_TEXT = 1_572_864;
/** From this size on JSON is read by the runtime, which is fast and knows no lines. */
const LARGE_JSON = 65_536;
/** Marks that YAML is made of: the reader takes microseconds for each, more for some that are out of place. */
const MAX_MARKS = 150_000;
const MAX_NODES = 300_000;
const MAX_DEPTH = 64;

/** Throws `LanguageError`, nothing else. */
export function readDocuments(text: string): TextDocument[] {
  if (text.length > MAX_TEXT) throw new LanguageError('', 1, `the text is larger than ${MAX_TEXT} characters`);
  const isLarge = text.length > LARGE_JSON && /^\s*[[{]/.test(text);
  const large = isLarge ? readJson(text) : undefined;
  if (large !== undefined) return [{ index: 0, line: 1, root: large }];
  try {
    checkMarks(text);
    return readYaml(text);
  } catch (error) {
    const json = isLarge ? undefined : readJson(text);
    if (json !== undefined) return [{ index: 0, line: 1, root: json }];
    if (error instanceof LanguageError) throw error;
    const why = error instanceof RangeError ? 'nested too deep' : String(error);
    throw new LanguageError('', 1, `the text is not readable: ${why}`);
  }
}

const MARK = /[\n,[\]{}&*!?|>"'%]|[:-](?=\s)/g;

/** What the reader would need seconds for is refused before it starts: it recurses, and not all of it is linear. */
function checkMarks(text: string): void {
  let marks = 0;
  let open = 0;
  let line = 1;
  for (const { 0: mark } of text.matchAll(MARK)) {
    if (mark === '\n') line++;
    else if (mark === '[' || mark === '{') open++;
    else if (mark === ']' || mark === '}') open--;
    // Brackets in strings may be left open, so the bound is a loose one.
    if (open > 20 * MAX_DEPTH) throw new LanguageError('', line, 'nested too deep');
    if (++marks > MAX_MARKS) throw new LanguageError('', line, 'the text has too many parts: split it');
  }
}

function readYaml(text: string): TextDocument[] {
  const lines = new LineCounter();
  const parsed = parseAllDocuments(text, {
    version: '1.1',
    // The library compares every key with every other; `Reader` refuses doubles in linear time.
    uniqueKeys: false,
    lineCounter: lines,
    logLevel: 'silent',
    prettyErrors: false,
    stringKeys: false,
  });
  if (!Array.isArray(parsed)) return [];
  const reader = new Reader((offset) => lines.linePos(offset).line);
  return parsed.flatMap((document, index) => {
    const error = document.errors[0];
    if (error !== undefined) throw new LanguageError('', lines.linePos(error.pos[0]).line, error.message, index);
    if (document.contents === null) return [];
    const line = lines.linePos(document.contents.range?.[0] ?? 0).line;
    return [{ index, line, root: reader.document(document.contents, index) }];
  });
}

interface Sized {
  readonly node: Node;
  readonly size: number;
}

class Reader {
  readonly #lineAt: (offset: number) => number;
  #anchors = new Map<string, Sized>();
  #document = 0;

  constructor(lineAt: (offset: number) => number) {
    this.#lineAt = lineAt;
  }

  document(contents: unknown, index: number): Node {
    this.#anchors = new Map();
    this.#document = index;
    return this.#read(contents, 1, 0).node;
  }

  #read(yaml: unknown, near: number, depth: number): Sized {
    const line = this.#line(yaml, near);
    if (depth > MAX_DEPTH) throw this.#error(line, 'nested too deep');
    if (isAlias(yaml)) {
      const known = this.#anchors.get(yaml.source);
      if (known === undefined) throw this.#error(line, `unknown alias *${yaml.source}`);
      return known;
    }
    const sized = this.#readValue(yaml, line, depth);
    if (sized.size > MAX_NODES) throw this.#error(line, `more than ${MAX_NODES} values`);
    const anchor = (yaml as { anchor?: unknown } | null)?.anchor;
    if (typeof anchor === 'string') this.#anchors.set(anchor, sized);
    return sized;
  }

  #readValue(yaml: unknown, line: number, depth: number): Sized {
    if (isMap(yaml)) return this.#readMap(yaml.items, line, depth);
    if (isSeq(yaml)) {
      let size = 1;
      const items: Node[] = [];
      for (const item of yaml.items) {
        const read = this.#read(item, line, depth + 1);
        items.push(read.node);
        size += read.size;
      }
      return { node: { kind: 'list', line, items }, size };
    }
    if (yaml === null || yaml === undefined) return { node: { kind: 'scalar', line, value: null }, size: 1 };
    if (!isScalar(yaml)) throw this.#error(line, 'not a value');
    return { node: { kind: 'scalar', line, value: scalarValue(yaml.value, yaml.source) }, size: 1 };
  }

  #readMap(pairs: readonly { key: unknown; value: unknown }[], line: number, depth: number): Sized {
    const entries = new Map<string, Node>();
    const merged: Node[] = [];
    let size = 1;
    for (const pair of pairs) {
      const keyLine = this.#line(pair.key, line);
      const key = isScalar(pair.key) ? pair.key : undefined;
      if (key === undefined) throw this.#error(keyLine, 'a key must be a plain text');
      const value = this.#read(pair.value, keyLine, depth + 1);
      size += value.size + 1;
      const name = key.value === null ? 'null' : (key.source ?? String(key.value));
      if (name === '<<' && key.type === 'PLAIN') merged.push(value.node);
      else if (entries.has(name)) throw this.#error(keyLine, `the key "${name.slice(0, 80)}" stands twice`);
      else entries.set(name, value.node);
    }
    for (const node of merged) this.#merge(entries, node);
    return { node: { kind: 'map', line, entries }, size };
  }

  #merge(entries: Map<string, Node>, from: Node): void {
    for (const node of from.kind === 'list' ? from.items : [from]) {
      if (node.kind !== 'map') throw this.#error(node.line, '"<<" takes a map or a list of maps');
      for (const [name, value] of node.entries) if (!entries.has(name)) entries.set(name, value);
    }
  }

  #line(yaml: unknown, near: number): number {
    const range = (yaml as { range?: unknown } | null)?.range;
    return Array.isArray(range) && typeof range[0] === 'number' ? this.#lineAt(range[0]) : near;
  }

  #error(line: number, message: string): LanguageError {
    return new LanguageError('', line, message, this.#document);
  }
}

function scalarValue(value: unknown, source: string | undefined): ScalarNode['value'] {
  switch (typeof value) {
    case 'string':
    case 'number':
    case 'bigint':
    case 'boolean':
      return value;
    default:
      // Dates and binaries of YAML 1.1: nothing here takes one, so they stay text.
      return value === null ? null : (source ?? String(value));
  }
}

/** JSON that YAML does not take, such as one indented with tabs. It has no lines. */
function readJson(text: string): Node | undefined {
  try {
    return fromJson(JSON.parse(text), 0);
  } catch {
    return undefined;
  }
}

function fromJson(value: unknown, depth: number): Node {
  if (depth > MAX_DEPTH) throw new RangeError('nested too deep');
  if (Array.isArray(value)) return { kind: 'list', line: 1, items: value.map((item) => fromJson(item, depth + 1)) };
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).map(([name, item]) => [name, fromJson(item, depth + 1)] as const);
    return { kind: 'map', line: 1, entries: new Map(entries) };
  }
  return { kind: 'scalar', line: 1, value: value as ScalarNode['value'] };
}

/** The plain value, for display. */
export function toPlain(node: Node): unknown {
  if (node.kind === 'list') return node.items.map(toPlain);
  if (node.kind === 'scalar') return typeof node.value === 'bigint' ? Number(node.value) : node.value;
  return Object.fromEntries([...node.entries].map(([name, value]) => [name, toPlain(value)]));
}
