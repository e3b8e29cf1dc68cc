import { lookup } from 'node:dns/promises';
import { type Address, formatAddress, parseAddress } from '../core/ip.ts';
import { sleep } from '../core/job.ts';

export interface StoreAddress {
  readonly address: Address;
  readonly port: number;
}

export interface StoreAddressesOptions {
  readonly onChange: () => void;
  /** All addresses of a name; the system's resolver by default. */
  readonly resolve?: (host: string) => Promise<readonly string[]>;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

interface Endpoint {
  readonly host: string;
  readonly port: number;
}

/** How often names are resolved again, milliseconds: a load balancer that moves must not lock the machine out. */
const REFRESH_MS = 30_000;
/** Stores that fail ask again, but not more often than that. */
const AGAIN_MS = 2_000;
/**
 * A large load balancer answers with a few of its addresses at a time, and a connection to one of the others lives on: so an
 * address stays for so long after it was seen last.
 */
const KEEP_MS = 3_600_000;
/** Of one name. */
const MAX_ADDRESSES = 256;
/** A lookup holds one of the four threads that also read files, for many seconds when no name server answers. */
const MAX_LOOKUPS = 2;

/**
 * The addresses behind the endpoints of all stores: what the machine may always reach (design, section 4). A name that
 * cannot be resolved keeps the addresses that it had, since the name server may be out of reach under the very policy
 * that we enforce.
 */
export class StoreAddresses {
  readonly #onChange: () => void;
  readonly #resolve: (host: string) => Promise<readonly string[]>;
  readonly #now: () => number;
  #endpoints: readonly Endpoint[] = [];
  #text = '';
  /** By name: each address with the time when it was seen last. */
  readonly #known = new Map<string, Map<string, number>>();
  readonly #lookups = new Map<string, Promise<void>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #refreshedAt = Number.NEGATIVE_INFINITY;
  #told = '';

  constructor({ onChange, resolve = allAddresses, now = () => performance.now() }: StoreAddressesOptions) {
    this.#onChange = onChange;
    this.#resolve = resolve;
    this.#now = now;
  }

  /** The endpoints of all stores, as URLs. Resolves when their names were looked up. */
  async set(endpoints: readonly string[]): Promise<void> {
    const text = endpoints.join(' ');
    if (text === this.#text && this.#now() - this.#refreshedAt < AGAIN_MS) return;
    if (text !== this.#text) {
      this.#text = text;
      this.#endpoints = endpoints.map(splitEndpoint).filter((endpoint) => endpoint !== undefined);
      const hosts = new Set(this.#endpoints.map(({ host }) => host));
      for (const host of this.#known.keys()) if (!hosts.has(host)) this.#known.delete(host);
      this.#tell();
    }
    await this.refresh();
  }

  /** Sorted and without duplicates. */
  list(): StoreAddress[] {
    const found = new Map<string, StoreAddress>();
    for (const { host, port } of this.#endpoints) {
      for (const text of this.#addressesOf(host)) {
        const address = parseAddress(text);
        if (address !== undefined) found.set(`${formatAddress(address)} ${port}`, { address, port });
      }
    }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
  }

  /** Resolves every name again; never rejects. */
  async refresh(): Promise<void> {
    this.#refreshedAt = this.#now();
    const names = new Set(this.#endpoints.map(({ host }) => host).filter((host) => parseAddress(host) === undefined));
    await Promise.all([...names].map((host) => this.#lookup(host)));
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(REFRESH_MS, signal);
      // Not waited for: a name server that does not answer must not hold up the end.
      if (!signal.aborted) void this.refresh();
    }
  }

  #addressesOf(host: string): Iterable<string> {
    return parseAddress(host) === undefined ? (this.#known.get(host)?.keys() ?? []) : [host];
  }

  /** One at a time for each name. Its answer counts at once: a name that nobody resolves does not hold up the others. */
  #lookup(host: string): Promise<void> {
    const running = this.#lookups.get(host);
    if (running !== undefined) return running;
    const lookup = this.#inTurn(() => this.#resolve(host))
      .then((answers) => this.#learn(host, answers))
      .finally(() => this.#lookups.delete(host));
    this.#lookups.set(host, lookup);
    return lookup;
  }

  /** An empty answer when the name cannot be resolved. */
  async #inTurn(work: () => Promise<readonly string[]>): Promise<readonly string[]> {
    if (this.#running >= MAX_LOOKUPS) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running++;
    try {
      return await work();
    } catch {
      return [];
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
    }
  }

  #learn(host: string, answers: readonly string[]): void {
    if (answers.length === 0 || !this.#endpoints.some((endpoint) => endpoint.host === host)) return;
    const now = this.#now();
    const known = this.#known.get(host) ?? new Map<string, number>();
    this.#known.set(host, known);
    for (const text of answers) {
      // The newest last, so that of too many the oldest go.
      known.delete(text);
      known.set(text, now);
    }
    for (const [text, seen] of known) if (now - seen > KEEP_MS || known.size > MAX_ADDRESSES) known.delete(text);
    this.#tell();
  }

  #tell(): void {
    const now = this.list()
      .map(({ address, port }) => `${formatAddress(address)} ${port}`)
      .join();
    if (now === this.#told) return;
    this.#told = now;
    this.#onChange();
  }
}

function splitEndpoint(endpoint: string): Endpoint | undefined {
  const text = endpoint.includes('://') ? endpoint : `http://${endpoint}`;
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port),
  };
}

async function allAddresses(host: string): Promise<string[]> {
  return (await lookup(host, { all: true })).map(({ address }) => address);
}
