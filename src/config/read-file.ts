import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  LineCounter,
  type Node,
  type ParsedNode,
  parseDocument,
  visit,
  type YAMLMap,
} from 'yaml';
import { MeshError, messageOf } from '../core/errors.ts';
import { isKey, KEY_NAMES, KEYS, type KeyName, type ValueOf } from './keys.ts';
import { nearest } from './nearest.ts';
import { type Settings, valueProblem } from './settings.ts';
import { quote, Unacceptable } from './values.ts';

/** Larger is no configuration. The parser's search for duplicate keys is quadratic, so this also bounds its time. */
const MAX_BYTES = 64 << 10;
const MAX_PROBLEMS = 50;

/**
 * Reads a configuration file; whatever is wrong goes to `problems`, with `file:line`. Undefined when there is no such
 * file.
 */
export function readConfigFile(file: string, problems: MeshError[]): Settings | undefined {
  let text: string;
  try {
    text = readLimited(file);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    problems.push(new MeshError('CFG-FILE', messageOf(cause), { place: file, cause }));
    return new Map();
  }
  return parseConfig(text, file, problems);
}

function readLimited(file: string): string {
  // The path may be a pipe without a writer.
  const descriptor = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(descriptor);
    if (!stat.isFile()) throw new Error('it is not a regular file');
    if (stat.size > MAX_BYTES) throw new Error(`it has ${stat.size} bytes, more than the ${MAX_BYTES} that are read`);
    const buffer = Buffer.alloc(MAX_BYTES);
    let length = 0;
    for (let read = 1; read > 0 && length < MAX_BYTES; length += read) {
      read = readSync(descriptor, buffer, length, MAX_BYTES - length, null);
    }
    return buffer.toString('utf8', 0, length);
  } finally {
    closeSync(descriptor);
  }
}

/** The same from text. */
export function parseConfig(text: string, file: string, problems: MeshError[]): Settings {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, prettyErrors: false });
  const reader = new FileReader(file, lines);
  if (readable(document, text, reader) && document.contents !== null) reader.read(document.contents);
  problems.push(...reader.problems());
  return reader.settings;
}

/** Tells the reader what the parser found; whether the content still makes sense. */
function readable(document: Document.Parsed, text: string, reader: FileReader): boolean {
  let sound = true;
  for (const error of [...document.errors, ...document.warnings]) {
    if (error.code === 'RESOURCE_EXHAUSTION') {
      reader.syntax('the values are nested too deeply', error.pos[0]);
      return false;
    }
    if (error.code === 'DUPLICATE_KEY') reader.duplicate(text.slice(error.pos[0]), error.pos[0]);
    else {
      sound = false;
      reader.syntax(MESSAGES[error.code] ?? error.message, error.pos[0]);
    }
  }
  return sound && (document.contents === null || !reader.aliases(document.contents));
}

/** Where the parser speaks to programmers. */
const MESSAGES: Readonly<Record<string, string>> = {
  MULTIPLE_DOCS: 'a configuration file holds one document: remove the line "---"',
  TAB_AS_INDENT: 'tabs are not allowed as indentation: use spaces',
};

class FileReader {
  readonly settings: Settings = new Map();
  readonly #file: string;
  readonly #lines: LineCounter;
  readonly #found: { readonly line: number; readonly problem: MeshError }[] = [];

  constructor(file: string, lines: LineCounter) {
    this.#file = file;
    this.#lines = lines;
  }

  /** By line. */
  problems(): MeshError[] {
    const sorted = this.#found.sort((a, b) => a.line - b.line);
    return sorted.slice(0, MAX_PROBLEMS).map(({ problem }) => problem);
  }

  syntax(message: string, offset: number): void {
    this.#add(new MeshError('CFG-SYNTAX', message, { place: this.#place(offset) }));
  }

  duplicate(text: string, offset: number): void {
    const name = /^["']?([\w.-]{0,80})/.exec(text)?.[1] ?? '';
    this.#add(new MeshError('CFG-SYNTAX', `the key ${quote(name)} is given twice`, { place: this.#place(offset) }));
  }

  /** References are of no use in a file of this size, and are how a small file grows a huge value. */
  aliases(root: ParsedNode): boolean {
    let found = false;
    visit(root, {
      Alias: (_key, node) => {
        found = true;
        this.syntax(`references such as *${node.source.slice(0, 40)} are not accepted`, node.range?.[0] ?? 0);
        return visit.BREAK;
      },
    });
    return found;
  }

  read(root: ParsedNode): void {
    if (isScalar(root) && root.value === null) return;
    if (isMap(root)) this.#readMap(root, '');
    else this.syntax('a mapping of keys to values is expected', root.range[0]);
  }

  #readMap(map: YAMLMap<ParsedNode, ParsedNode | null>, prefix: string): void {
    for (const { key, value } of map.items) {
      const word = isScalar(key) && typeof key.value === 'string' ? key.value : undefined;
      const offset = key.range[0];
      const name = `${prefix}${word}`;
      if (word === undefined) this.syntax('a key must be text', offset);
      else if (isKey(name)) this.#readValue(name, value, offset);
      else if (!GROUPS.has(name)) this.#unknown(word, prefix, offset);
      else if (isMap(value)) this.#readMap(value as YAMLMap<ParsedNode, ParsedNode | null>, `${name}.`);
      else if (!isEmpty(value)) this.#misshapen(name, value?.range[0] ?? offset);
    }
  }

  #readValue(name: KeyName, node: ParsedNode | null, offset: number): void {
    const place = this.#place(offset);
    if (isEmpty(node)) {
      this.settings.set(name, { value: undefined, refused: true, origin: { kind: 'file', place } });
      this.#add(new MeshError('CFG-VALUE', `${name} has no value: give one, or remove the key`, { place }));
      return;
    }
    try {
      const value: ValueOf<KeyName> = KEYS[name].kind.read(plain(node));
      this.settings.set(name, { value, origin: { kind: 'file', place } });
    } catch (error) {
      if (!(error instanceof Unacceptable)) throw error;
      this.settings.set(name, { value: undefined, refused: true, origin: { kind: 'file', place } });
      this.#add(valueProblem(name, error, this.#place(offsetInside(node, error.inside) ?? offset)));
    }
  }

  #misshapen(name: string, offset: number): void {
    const members = KEY_NAMES.filter((key) => key.startsWith(`${name}.`)).map((key) => key.slice(name.length + 1));
    const detail = `${name}: a mapping is expected, with ${members.join(', ')}`;
    this.#add(new MeshError('CFG-VALUE', detail, { place: this.#place(offset) }));
  }

  #unknown(word: string, prefix: string, offset: number): void {
    const guess = suggestion(word, prefix);
    const hint = guess === undefined ? '' : `; did you mean ${guess}?`;
    const shown = `${prefix}${word}`;
    const detail = `${/^[\w.-]{1,80}$/.test(shown) ? shown : quote(shown)}${hint}`;
    this.#add(new MeshError('CFG-KEY', detail, { place: this.#place(offset) }));
  }

  #add(problem: MeshError): void {
    this.#found.push({ line: Number(problem.place?.split(':').at(-1)), problem });
  }

  #place(offset: number): string {
    return `${this.#file}:${Math.max(1, this.#lines.linePos(offset).line)}`;
  }
}

/** Names that hold other keys: `kvstore`, `log`. */
const GROUPS: ReadonlySet<string> = new Set(
  KEY_NAMES.flatMap((name) => (name.includes('.') ? [name.slice(0, name.indexOf('.'))] : [])),
);

/** The nearest name on this level, else a key of another level that ends like it. */
function suggestion(word: string, prefix: string): string | undefined {
  const here = new Set(
    [...KEY_NAMES, ...GROUPS].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length)),
  );
  const near = nearest(
    word,
    [...here].filter((name) => !name.includes('.')),
  );
  if (near !== undefined) return `${prefix}${near}`;
  const last = (name: string): string => name.slice(name.lastIndexOf('.') + 1);
  const far = nearest(word, KEY_NAMES.map(last));
  return far === undefined ? undefined : KEY_NAMES.find((name) => last(name) === far);
}

function isEmpty(node: Node | null): node is null {
  return node === null || (isScalar(node) && node.value === null);
}

/** The value as YAML means it. There are no aliases, so it is as large as its text. */
function plain(node: ParsedNode): unknown {
  if (isScalar(node)) return node.value;
  if (isMap(node)) {
    return Object.fromEntries(
      node.items.map(({ key, value }) => [
        isScalar(key) ? String(key.value) : '',
        value === null ? null : plain(value as ParsedNode),
      ]),
    );
  }
  if (isAlias(node)) return undefined;
  return node.items.map((item) => plain(item as ParsedNode));
}

function offsetInside(node: ParsedNode, inside: readonly (string | number)[]): number | undefined {
  let at: unknown = node;
  for (const step of inside)
    at = isMap(at) || (typeof at === 'object' && at !== null && 'get' in at) ? getNode(at, step) : undefined;
  return typeof at === 'object' && at !== null && 'range' in at ? (at as ParsedNode).range?.[0] : undefined;
}

function getNode(collection: object, step: string | number): unknown {
  return 'get' in collection && typeof collection.get === 'function' ? collection.get(step, true) : undefined;
}
