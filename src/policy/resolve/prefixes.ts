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

export class PrefixTable {
  /** By canonical text. A new map after every change, so that readers may keep the old one. */
  byText: ReadonlyMap<string, LocalPrefix> = new Map();
  readonly #used = new Map<NumericIdentity, LabelSet>();
  #next = LOCAL_SCOPE + 1;

  /** `foreign` tells numbers that someone else uses. */
  become(
    wanted: { readonly prefixes: ReadonlyMap<string, Prefix>; readonly names: NameTable; readonly dualStack: boolean },
    foreign: (id: NumericIdentity) => boolean,
  ): PrefixChanges {
    const texts = new Set<string>();
    const identities = new Map<NumericIdentity, LabelSet | undefined>();
    const after = new Map<string, LocalPrefix>();
    for (const [text, { prefix, names }] of wantedPrefixes(wanted.prefixes, wanted.names)) {
      const labels = prefixLabels(prefix, names, wanted.dualStack);
      const before = this.byText.get(text);
      const keeps = before !== undefined && !foreign(before.identity);
      if (keeps && sameLabels(before.labels, labels)) {
        after.set(text, before);
        continue;
      }
      const id = keeps ? before.identity : this.#allocate(foreign);
      after.set(text, { prefix, identity: id, labels });
      this.#used.set(id, labels);
      identities.set(id, labels);
      if (!keeps) texts.add(text);
    }
    for (const [text, before] of this.byText) {
      if (after.get(text)?.identity === before.identity) continue;
      texts.add(text);
      this.#used.delete(before.identity);
      if (!foreign(before.identity)) identities.set(before.identity, undefined);
    }
    if (texts.size > 0 || identities.size > 0) this.byText = after;
    return { texts, identities };
  }

  labelsOf(id: NumericIdentity): LabelSet | undefined {
    return this.#used.get(id);
  }

  /** Numbers are not used again soon: what still carries an old one must not come under a new prefix. */
  #allocate(foreign: (id: NumericIdentity) => boolean): NumericIdentity {
    for (;;) {
      const id = identity(this.#next);
      this.#next = this.#next + 1 >= REMOTE_NODE_SCOPE ? LOCAL_SCOPE + 1 : this.#next + 1;
      if (this.#used.has(id) || foreign(id)) continue;
      return id;
    }
  }
}

interface Wanted {
  readonly prefix: Prefix;
  readonly names: readonly string[];
}

function wantedPrefixes(prefixes: ReadonlyMap<string, Prefix>, names: NameTable): Map<string, Wanted> {
  const wanted = new Map<string, Wanted>();
  for (const [text, prefix] of prefixes) if (prefix.bits > 0) wanted.set(text, { prefix, names: [] });
  for (const { address, texts } of names.addresses().values()) {
    const prefix = { ...address, bits: addressBits(address.family) };
    wanted.set(formatPrefix(prefix), { prefix, names: [...texts].sort() });
  }
  return wanted;
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
