import type { DesiredAddresses } from '../desired.ts';
import type { ChangeSet } from './change-set.ts';
import { prefixKey } from './layout.ts';
import { Cover, type Nested, widenKey } from './nested.ts';

/** The prefixes of one family that the kernel holds: they may nest, and the longest wins. */
export class PrefixTracker {
  readonly map: string;
  readonly family: 4 | 6;
  held: ReadonlyMap<string, Nested> = new Map();

  constructor(family: 4 | 6) {
    this.family = family;
    this.map = `prefixes${family}`;
  }

  become(prefixes: ReturnType<DesiredAddresses['prefixes']>, set: ChangeSet): void {
    const wanted = new Map<string, Nested>();
    for (const { prefix, identity } of prefixes) {
      if (prefix.family !== this.family) continue;
      const key = prefixKey(prefix);
      wanted.set(key, { key, bits: prefix.bits, value: identity });
    }
    const [before, after] = [new Cover(this.held, widenKey), new Cover(wanted, widenKey)];
    for (const old of this.held.values()) {
      if (wanted.has(old.key)) continue;
      set.put({ map: this.map, before: old.value, after: after.around(old) }, old.key, { gone: true });
    }
    for (const each of wanted.values()) {
      const old = this.held.get(each.key)?.value;
      if (old === each.value) continue;
      set.put({ map: this.map, before: old ?? before.around(each), after: each.value }, each.key);
    }
    this.held = wanted;
  }
}
