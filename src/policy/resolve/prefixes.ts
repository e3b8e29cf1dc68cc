import { identity, LOCAL_SCOPE, type NumericIdentity, REMOTE_NODE_SCOPE } from '../../core/identity.ts';
import { addressBits, formatPrefix, type Prefix } from '../../core/ip.ts';
import { type LabelSet, makeLabel } from '../../core/labels.ts';
import { cidrKey } from './match.ts';
import type { NameTable } from './names.ts';

/** Local identities of the prefixes that policies name (specification 6.3.4, 6.3.8). */
export interface LocalPrefix {
  readonly prefix: Prefix;
  readonly identity: NumericIdentity;
  readonly labels: LabelSet;
}

export interface PrefixChanges {
  readonly texts: ReadonlySet<string>;
  /** Identities with other labels than before; undefined for those that are gone. */
  readonly identities: ReadonlyMap<NumericIdentity, LabelSet | undefined>;
}

export interface WantedPrefixes {
  /** By canonical text; the same map as before when nothing changed. */
  readonly prefixes: ReadonlyMap<string, Prefix>;
  readonly names: NameTable;
  readonly dualStack: boolean;
  /** Numbers that someone else uses, and those where that may have changed. */
  readonly foreign: (id: NumericIdentity) => boolean;
  readonly touched: Iterable<NumericIdentity>;
}

export class PrefixTable {
  /** By canonical text; changes with the facts. */
  readonly byText = new Map<string, LocalPrefix>();
  readonly #byId = new Map<NumericIdentity, LocalPrefix>();
  #wanted: WantedPrefixes | undefined;
  #next = LOCAL_SCOPE + 1;

  /** Costs what changed, not what there is. */
  become(wanted: WantedPrefixes): PrefixChanges {
    const texts = new Set<string>();
    const identities = new Map<NumericIdentity, LabelSet | undefined>();
    for (const [text, prefix] of this.#candidates(wanted)) {
      const before = this.byText.get(text);
      const after = this.#decide(text, prefix, wanted);
      if (before === after) continue;
      if (before?.identity !== after?.identity) texts.add(text);
      if (before !== undefined && before.identity !== after?.identity) {
        this.#byId.delete(before.identity);
        if (!wanted.foreign(before.identity)) identities.set(before.identity, undefined);
      }
      if (after === undefined) this.byText.delete(text);
      else {
        this.byText.set(text, after);
        this.#byId.set(after.identity, after);
        identities.set(after.identity, after.labels);
      }
    }
    this.#wanted = wanted;
    return { texts, identities };
  }

  #candidates(wanted: WantedPrefixes): ReadonlyMap<string, Prefix> {
    const before = this.#wanted;
    const candidates = new Map<string, Prefix>();
    if (before?.prefixes !== wanted.prefixes) {
      for (const [text, prefix] of before?.prefixes ?? []) if (!wanted.prefixes.has(text)) candidates.set(text, prefix);
      for (const [text, prefix] of wanted.prefixes) if (!this.byText.has(text)) candidates.set(text, prefix);
    }
    for (const address of wanted.names.drain().values()) {
      const prefix = { ...address, bits: addressBits(address.family) };
      candidates.set(formatPrefix(prefix), prefix);
    }
    for (const id of wanted.touched) {
      const held = this.#byId.get(id);
      if (held !== undefined) candidates.set(formatPrefix(held.prefix), held.prefix);
    }
    if (before?.dualStack !== wanted.dualStack) {
      for (const [text, { prefix }] of this.byText) candidates.set(text, prefix);
    }
    return candidates;
  }

  /** What a prefix has to be; the same object as before when nothing changed. */
  #decide(text: string, prefix: Prefix, wanted: WantedPrefixes): LocalPrefix | undefined {
    const single = prefix.bits === addressBits(prefix.family);
    const names = single ? wanted.names.textsOf(prefix) : [];
    if (prefix.bits === 0 || (names.length === 0 && !wanted.prefixes.has(text))) return undefined;
    const labels = prefixLabels(prefix, names, wanted.dualStack);
    const before = this.byText.get(text);
    const keeps = before !== undefined && !wanted.foreign(before.identity);
    if (keeps && sameLabels(before.labels, labels)) return before;
    return { prefix, identity: keeps ? before.identity : this.#allocate(wanted.foreign), labels };
  }

  labelsOf(id: NumericIdentity): LabelSet | undefined {
    return this.#byId.get(id)?.labels;
  }

  /** Numbers are not used again soon: what still carries an old one must not come under a new prefix. */
  #allocate(foreign: (id: NumericIdentity) => boolean): NumericIdentity {
    for (;;) {
      const id = identity(this.#next);
      this.#next = this.#next + 1 >= REMOTE_NODE_SCOPE ? LOCAL_SCOPE + 1 : this.#next + 1;
      if (!this.#byId.has(id) && !foreign(id)) return id;
    }
  }
}

/** Not `labelSet`: a DNS name may equal the key of another label, and both count. */
function prefixLabels(prefix: Prefix, names: readonly string[], dualStack: boolean): LabelSet {
  const world = dualStack ? (prefix.family === 4 ? 'world-ipv4' : 'world-ipv6') : 'world';
  return [
    makeLabel('cidr', cidrKey(formatPrefix(prefix), prefix.family), ''),
    ...names.map((text) => makeLabel('fqdn', text, '')),
    makeLabel('reserved', world, ''),
  ];
}

function sameLabels(a: LabelSet, b: LabelSet): boolean {
  return a.length === b.length && a.every((label, index) => label.text === b[index]?.text);
}
