import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type Address,
  addressBits,
  contains,
  formatAddress,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../core/ip.ts';
import { fieldsOf, parseObject } from '../../kvstore/codec/json.ts';
import type { HubStore } from '../hub-store.ts';
import { notUnicast } from '../registration/review.ts';
import type { HubFacts } from '../workloads/hub-facts.ts';
import { wholeAddress } from '../workloads/prefix-index.ts';

/** `<address>` to `<namespace>/<name>`: what keeps an address with one service. */
export const FRONTENDS_PREFIX = 'mesh-agent/v1/frontends/';
const CACHED_SERVICES = 'cilium/cache/services/v1/';
/** Services that are looked at before others have their turn: there may be ten thousand. */
const AT_ONCE = 64;

export interface FrontendsOptions {
  readonly store: Pick<HubStore, 'readPrefix'>;
  readonly facts: HubFacts;
  /** Of workloads, and of services. */
  readonly pools: readonly string[];
  readonly servicePools: readonly string[];
  /** Addresses of the hub. */
  readonly own: readonly Address[];
}

/** Which addresses services on machines may have: machines lead what they send there to the backends. */
export class Frontends {
  readonly #options: FrontendsOptions;
  readonly #pools: readonly Prefix[];
  readonly #servicePools: readonly Prefix[];
  readonly #own: ReadonlySet<string>;

  constructor(options: FrontendsOptions) {
    const prefixes = (texts: readonly string[]) => texts.map(parsePrefix).filter((prefix) => prefix !== undefined);
    this.#options = options;
    this.#pools = prefixes(options.pools);
    this.#servicePools = prefixes(options.servicePools);
    this.#own = new Set(options.own.map(formatAddress));
  }

  /**
   * Why the address cannot be one of this service; undefined when it can. Reads what the connected clusters announce.
   * @throws MeshError KVS-*
   */
  async objection(text: string, key: string): Promise<string | undefined> {
    const address = parseAddress(text);
    if (address === undefined) return 'it is no address';
    const owner = this.#options.facts.services.ownerOf(text);
    if (owner !== undefined && owner !== key) return `service ${owner} has it`;
    return notUnicast(address) ?? this.#takenBy(address, text) ?? (await this.#announcedBy(text));
  }

  /** The first free one of each family that has a pool; those that a service has from a pool stay its own. */
  choose(key: string, given: readonly string[]): { readonly addresses: readonly string[]; readonly full: string[] } {
    const { services } = this.#options.facts;
    const held = services.get(key)?.addresses ?? [];
    const families = new Set(given.map((text) => parseAddress(text)?.family));
    const addresses = [...given];
    const full: string[] = [];
    for (const family of [4, 6] as const) {
      const pools = this.#servicePools.filter((pool) => pool.family === family);
      if (families.has(family) || pools.length === 0) continue;
      const kept = held.find((text) => pools.some((pool) => isIn(pool, text)));
      const found = kept ?? this.#firstFree(pools);
      if (found === undefined) full.push(`IPv${family}`);
      else addresses.push(found);
    }
    return { addresses, full };
  }

  get hasPools(): boolean {
    return this.#servicePools.length > 0;
  }

  #firstFree(pools: readonly Prefix[]): string | undefined {
    const taken = new Set(this.#options.facts.services.frontends());
    for (const pool of pools) {
      const bits = addressBits(pool.family);
      // At most one more than are taken have to be looked at; the network's own address is none.
      const room = Math.min(2 ** Math.min(30, bits - pool.bits) - 1, taken.size + 1);
      for (let index = 1; index <= room; index++) {
        const words = [...pool.words];
        words[words.length - 1] = (words.at(-1) ?? 0) + index;
        const text = formatAddress({ family: pool.family, words });
        if (!taken.has(text)) return text;
      }
    }
    return undefined;
  }

  #takenBy(address: Address, text: string): string | undefined {
    const { book, records, foreign } = this.#options.facts;
    const whole = wholeAddress(address);
    if (this.#own.has(text)) return 'the hub has it';
    const pool = this.#pools.find((each) => contains(each, whole));
    if (pool !== undefined) return 'it lies in a pool of workloads';
    const range = book.ranges.index.overlapping(whole);
    if (range !== undefined) return `it lies in a range of workload ${range.owner}`;
    for (const [name, { addresses }] of records.entries())
      if (addresses.includes(text)) return `machine ${name} has it`;
    const owner = foreign.ownerOf(address);
    return owner === undefined ? undefined : `it is in use: ${owner}`;
  }

  async #announcedBy(text: string): Promise<string | undefined> {
    const { entries } = await this.#options.store.readPrefix(CACHED_SERVICES);
    for (const [index, { key, value }] of entries.entries()) {
      if (frontendsOf(value).has(text)) return `it is the address of service ${key}`;
      if (index % AT_ONCE === AT_ONCE - 1) await nextTurn();
    }
    return undefined;
  }
}

/** What a cluster wrote is not ours to judge here: what cannot be read has no frontends. */
function frontendsOf(value: Buffer): ReadonlySet<string> {
  try {
    const frontends = fieldsOf(parseObject(value).get('frontends') ?? {}, 'frontends');
    return new Set(
      [...frontends.keys()].map((text) => {
        const address = parseAddress(text);
        return address === undefined ? text : formatAddress(address);
      }),
    );
  } catch {
    return new Set();
  }
}

function isIn(pool: Prefix, text: string): boolean {
  const address = parseAddress(text);
  return address?.family === pool.family && contains(pool, wholeAddress(address));
}
