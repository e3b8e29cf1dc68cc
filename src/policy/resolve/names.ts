import { type Address, formatAddress } from '../../core/ip.ts';
import type { FqdnItem } from '../rule.ts';

/** DNS names (specification 7.10): which FQDN selectors match a name. Linear in its input, whatever the pattern. */
export function normalName(name: string): string {
  return name.trim().toLowerCase().replace(/\.$/, '');
}

const LABEL = /^[-a-z0-9_]+$/;

/** Both in normal form. `*` never crosses a dot; alone it is every name; `**.` in front is one or more whole labels. */
export function fqdnMatches(item: FqdnItem, name: string): boolean {
  if (item.name !== undefined) return item.name === name;
  const pattern = item.pattern ?? '';
  const labels = name === '' ? [] : name.split('.');
  if (pattern === '*') return labels.every((label) => LABEL.test(label));
  const deep = pattern.startsWith('**.');
  const globs = (deep ? pattern.slice(3) : pattern).split('.');
  const extra = labels.length - globs.length;
  if (deep ? extra < 1 : extra !== 0) return false;
  if (!labels.slice(0, extra).every((label) => LABEL.test(label))) return false;
  return globs.every((glob, index) => globMatches(glob, labels[extra + index] ?? ''));
}

/** One label; `*` is zero or more of the characters of a label. Greedy with one point of return. */
function globMatches(glob: string, label: string): boolean {
  if (!glob.includes('*')) return glob === label;
  if (!LABEL.test(label) && label !== '') return false;
  let g = 0;
  let back = -1;
  let from = 0;
  for (let i = 0; i < label.length; ) {
    if (g < glob.length && glob[g] === '*') {
      back = g++;
      from = i;
    } else if (g < glob.length && glob[g] === label[i]) {
      g++;
      i++;
    } else if (back >= 0) {
      g = back + 1;
      i = ++from;
    } else return false;
  }
  while (glob[g] === '*') g++;
  return g === glob.length;
}

/** What is known of DNS, and the selectors that someone uses. Tells the selectors that hold for an address. */
export class NameTable {
  readonly #names = new Map<string, readonly Address[]>();
  /** The other way around: names by the text of their addresses. */
  readonly #byAddress = new Map<string, { readonly address: Address; readonly names: Set<string> }>();
  #items: ReadonlyMap<string, FqdnItem> = new Map();
  #itemsKey = '';
  /** Texts of the selectors that match a name; dropped when the selectors change. */
  readonly #matching = new Map<string, readonly string[]>();
  #touched = new Map<string, Address>();

  /** Returns whether anything changed. */
  set(name: string, addresses: readonly Address[]): boolean {
    const normal = normalName(name);
    const before = this.#names.get(normal) ?? [];
    if (sameAddresses(before, addresses)) return false;
    for (const address of before) this.#unlink(normal, address);
    for (const address of addresses) this.#link(normal, address);
    if (addresses.length > 0) this.#names.set(normal, [...addresses]);
    else {
      this.#names.delete(normal);
      this.#matching.delete(normal);
    }
    return true;
  }

  /** Selectors by their text. */
  use(items: ReadonlyMap<string, FqdnItem>): void {
    const key = [...items.keys()].sort().join('\n');
    if (key === this.#itemsKey) return;
    this.#items = items;
    this.#itemsKey = key;
    this.#matching.clear();
    for (const [text, { address }] of this.#byAddress) this.#touched.set(text, address);
  }

  /** Whether someone uses a selector. */
  get used(): boolean {
    return this.#items.size > 0;
  }

  /** Texts of the selectors in use that match a name which has addresses. */
  selectorsOf(name: string): readonly string[] {
    const normal = normalName(name);
    return this.#names.has(normal) ? this.#textsOfName(normal) : [];
  }

  /** Addresses for which other selectors may hold than at the last call. */
  drain(): ReadonlyMap<string, Address> {
    const touched = this.#touched;
    this.#touched = new Map();
    return touched;
  }

  /** Texts of the selectors that hold for an address, sorted. */
  textsOf(address: Address): readonly string[] {
    if (this.#items.size === 0) return [];
    const texts = new Set<string>();
    for (const name of this.#byAddress.get(formatAddress(address))?.names ?? []) {
      for (const text of this.#textsOfName(name)) texts.add(text);
    }
    return [...texts].sort();
  }

  #link(name: string, address: Address): void {
    const text = formatAddress(address);
    const known = this.#byAddress.get(text) ?? { address, names: new Set<string>() };
    known.names.add(name);
    this.#byAddress.set(text, known);
    this.#touched.set(text, address);
  }

  #unlink(name: string, address: Address): void {
    const text = formatAddress(address);
    const known = this.#byAddress.get(text);
    known?.names.delete(name);
    if (known?.names.size === 0) this.#byAddress.delete(text);
    this.#touched.set(text, address);
  }

  #textsOfName(name: string): readonly string[] {
    const known = this.#matching.get(name);
    if (known !== undefined) return known;
    const texts = [...this.#items].filter(([, item]) => fqdnMatches(item, name)).map(([text]) => text);
    this.#matching.set(name, texts);
    return texts;
  }
}

function sameAddresses(a: readonly Address[], b: readonly Address[]): boolean {
  const text = (list: readonly Address[]): string => [...new Set(list.map(formatAddress))].sort().join(' ');
  return text(a) === text(b);
}
