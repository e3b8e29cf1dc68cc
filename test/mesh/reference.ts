import { type Address, contains, formatAddress, formatPrefix, type Prefix, parsePrefix } from '../../src/core/ip.ts';
import type { IpcacheEntry } from '../../src/mesh/ipcache.ts';
import { type Origin, SOURCES } from '../../src/mesh/origin.ts';

export interface Said {
  readonly identity: number;
  readonly host: string;
}

/** The ipcache as slow and obvious as it can be: every claim in a list, every question a walk through all of them. */
export class Reference {
  /** By the spelling of the store: `10.0.0.1`, or `10.0.0.0/8`. */
  readonly claims = new Map<string, Map<Origin, Said>>();

  claim(origin: Origin, key: string, said: Said): void {
    const claims = this.claims.get(key) ?? new Map<Origin, Said>();
    this.claims.set(key, claims.set(origin, said));
  }

  withdraw(origin: Origin, key: string): void {
    const claims = this.claims.get(key);
    claims?.delete(origin);
    if (claims?.size === 0) this.claims.delete(key);
  }

  /** What stays of an origin after a list. */
  retain(origin: Origin, listed: ReadonlySet<string>): void {
    for (const [key, claims] of [...this.claims])
      if (claims.has(origin) && !listed.has(key)) this.withdraw(origin, key);
  }

  /** The origins that claim a key, the strongest first. */
  ranked(key: string): [Origin, Said][] {
    const rank = ({ source, cluster }: Origin): string => `${SOURCES.indexOf(source)} ${cluster}`;
    return [...(this.claims.get(key) ?? [])].sort(([a], [b]) => (rank(a) < rank(b) ? -1 : 1));
  }

  countOf(origin: Origin): number {
    return [...this.claims.values()].filter((claims) => claims.has(origin)).length;
  }

  conflicts(): string[] {
    return [...this.claims.keys()].filter((key) => {
      const clusters = this.ranked(key).filter(([{ source }]) => source !== 'policy');
      return new Set(clusters.map(([{ cluster }]) => cluster)).size > 1;
    });
  }

  /** The key that decides over an address: itself, else the longest prefix that holds it. */
  lookup(address: Address): string | undefined {
    if (this.claims.has(formatAddress(address))) return formatAddress(address);
    const whole = parsePrefix(formatAddress(address)) as Prefix;
    const holding = [...this.claims.keys()]
      .filter((key) => key.includes('/') && contains(parsePrefix(key) as Prefix, whole))
      .sort((a, b) => Number(b.split('/')[1]) - Number(a.split('/')[1]));
    return holding[0];
  }

  /** Key to what is in force. */
  inForce(): Map<string, string> {
    return new Map([...this.claims.keys()].map((key) => [key, this.#text(key)]));
  }

  /** Key to everything that is said of it. */
  dump(): Map<string, string> {
    return new Map(
      [...this.claims.keys()].map((key) => [
        key,
        `${this.#text(key)} of ${this.ranked(key)
          .map(([origin, said]) => `${origin.cluster}/${origin.source}=${said.identity}`)
          .join(' > ')}`,
      ]),
    );
  }

  #text(key: string): string {
    const [, said] = this.ranked(key)[0] as [Origin, Said];
    return `${said.identity} via ${said.host}`;
  }
}

/** The same form of a real ipcache. Single addresses and prefixes of full length differ in how they are asked for. */
export function dumpOf(entries: Iterable<IpcacheEntry>, isSingle: (entry: IpcacheEntry, index: number) => boolean) {
  const found = new Map<string, string>();
  let index = 0;
  for (const entry of entries) {
    const key = isSingle(entry, index++) ? formatAddress(entry.prefix) : formatPrefix(entry.prefix);
    const via = entry.tunnelEndpoint === undefined ? '' : formatAddress(entry.tunnelEndpoint);
    const all = [{ origin: entry.origin, identity: entry.identity }, ...entry.others];
    const said = all.map(({ origin, identity }) => `${origin.cluster}/${origin.source}=${identity}`).join(' > ');
    found.set(key, `${entry.identity} via ${via} of ${said}`);
  }
  return found;
}
