import type { MapNode, Node } from './document.ts';
import { toPlain } from './document.ts';
import { LanguageError } from './language-error.ts';

/** What reading a whole object shares. */
export interface ReadContext {
  readonly lenient: boolean;
  readonly nodeSelectors: boolean;
  readonly rejectL7: boolean;
  /** Name of the policy, for the references of rules. */
  readonly policy: string;
  warn(at: Cursor, message: string): void;
}

const MAX_SHOWN = 80;
export const shown = (text: string): string =>
  JSON.stringify(text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}...` : text);

/** A place in an object: reads typed values, and fails with path and line. */
export class Cursor {
  readonly node: Node;
  readonly path: string;
  readonly context: ReadContext;

  constructor(node: Node, path: string, context: ReadContext) {
    this.node = node;
    this.path = path;
    this.context = context;
  }

  get line(): number {
    return this.node.line;
  }

  get isNull(): boolean {
    return this.node.kind === 'scalar' && this.node.value === null;
  }

  fail(message: string): never {
    throw new LanguageError(this.path, this.line, message);
  }

  /** The value without places. */
  get plain(): unknown {
    return toPlain(this.node);
  }

  /** The fields of a map. Unknown names fail unless reading is lenient. */
  fields(known: readonly string[]): Fields {
    if (this.node.kind !== 'map') this.#wrongType('an object');
    if (!this.context.lenient) {
      for (const [name, value] of this.node.entries) {
        if (known.includes(name)) continue;
        const hint = known.find((each) => each.toLowerCase() === name.toLowerCase());
        const help = hint === undefined ? `known are ${known.join(', ')}` : `did you mean "${hint}"?`;
        this.at(value, name).fail(`unknown field ${shown(name)}; ${help}`);
      }
    }
    return new Fields(this, this.node);
  }

  /** Names and values of a map of strings. */
  strings(): (readonly [name: string, value: string, at: Cursor])[] {
    if (this.node.kind !== 'map') return this.#wrongType('an object');
    return [...this.node.entries].map(([name, value]) => {
      const at = this.at(value, name);
      return [name, at.string(), at] as const;
    });
  }

  items(): Cursor[] {
    if (this.node.kind !== 'list') return this.#wrongType('a list');
    return this.node.items.map((item, index) => new Cursor(item, `${this.path}[${index}]`, this.context));
  }

  string(): string {
    if (this.node.kind === 'scalar' && typeof this.node.value === 'string') return this.node.value;
    return this.#wrongType('a string');
  }

  boolean(): boolean {
    if (this.node.kind === 'scalar' && typeof this.node.value === 'boolean') return this.node.value;
    return this.#wrongType('true or false');
  }

  /** A whole number within bounds. */
  integer(first: number, last: number): number {
    const value = this.node.kind === 'scalar' ? this.node.value : undefined;
    if (typeof value !== 'number' || !Number.isInteger(value)) return this.#wrongType('an integer');
    if (value < first || value > last) this.fail(`${value} is not between ${first} and ${last}`);
    return value;
  }

  /** A string or a whole number, as text. */
  stringOrInteger(): string {
    const value = this.node.kind === 'scalar' ? this.node.value : undefined;
    if (typeof value === 'string') return value;
    if (typeof value === 'number' && Number.isInteger(value)) return String(value);
    return this.#wrongType('a string or an integer');
  }

  at(node: Node, name: string): Cursor {
    const step = /^[A-Za-z0-9_]+$/.test(name) ? name : JSON.stringify(name.slice(0, MAX_SHOWN));
    return new Cursor(node, this.path === '' ? step : `${this.path}.${step}`, this.context);
  }

  #wrongType(wanted: string): never {
    const node = this.node;
    const got = node.kind === 'scalar' ? (node.value === null ? 'null' : typeof node.value) : node.kind;
    return this.fail(`cannot unmarshal ${got}: must be ${wanted}`);
  }
}

/** Fields of one map; null counts as left out (specification 2.8). */
export class Fields {
  readonly at: Cursor;
  readonly #node: MapNode;

  constructor(at: Cursor, node: MapNode) {
    this.at = at;
    this.#node = node;
  }

  get(name: string): Cursor | undefined {
    const cursor = this.raw(name);
    return cursor?.isNull === true ? undefined : cursor;
  }

  /** With null as it stands. */
  raw(name: string): Cursor | undefined {
    const node = this.#node.entries.get(name);
    return node === undefined ? undefined : this.at.at(node, name);
  }

  /** Undefined when the field is left out. */
  items(name: string): Cursor[] | undefined {
    return this.get(name)?.items();
  }

  string(name: string): string | undefined {
    return this.get(name)?.string();
  }
}
