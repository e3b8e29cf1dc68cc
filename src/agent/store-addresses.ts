import { lookup } from 'node:dns/promises';
import { type Address, formatAddress, parseAddress } from '../core/ip.ts';
import { sleep } from '../core/job.ts';

export interface StoreAddress {
  readonly address: Address;
  readonly port: number;
}

/** How often names are resolved again, milliseconds: a load balancer that moves must not lock the machine out. */
const REFRESH_MS = 30_000;
const DEFAULT_PORT = 2379;

/**
 * The addresses behind the endpoints of all stores: what the machine may always reach (design, section 4). A name that
 * cannot be resolved keeps the addresses that it had, since the name server may be out of reach under the very policy
 * that we enforce.
 */
export class StoreAddresses {
  #endpoints: readonly string[] = [];
  readonly #resolved = new Map<string, readonly Address[]>();
  readonly #onChange: () => void;
  #fingerprint = '';

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  /** The endpoints of all stores, as URLs. */
  async set(endpoints: readonly string[]): Promise<void> {
    this.#endpoints = endpoints;
    await this.refresh();
  }

  /** Sorted and without duplicates. */
  list(): StoreAddress[] {
    const found = new Map<string, StoreAddress>();
    for (const endpoint of this.#endpoints) {
      const target = splitEndpoint(endpoint);
      for (const address of (target && this.#resolved.get(target.host)) ?? []) {
        if (target !== undefined) found.set(`${formatAddress(address)} ${target.port}`, { address, port: target.port });
      }
    }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
  }

  async refresh(): Promise<void> {
    await Promise.all(
      this.#endpoints.map(async (endpoint) => {
        const host = splitEndpoint(endpoint)?.host;
        const addresses = host === undefined ? [] : await resolve(host);
        if (host !== undefined && addresses.length > 0) this.#resolved.set(host, addresses);
      }),
    );
    const fingerprint = this.list()
      .map(({ address, port }) => `${formatAddress(address)} ${port}`)
      .join();
    if (fingerprint === this.#fingerprint) return;
    this.#fingerprint = fingerprint;
    this.#onChange();
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(REFRESH_MS, signal);
      if (!signal.aborted) await this.refresh();
    }
  }
}

function splitEndpoint(endpoint: string): { host: string; port: number } | undefined {
  const text = endpoint.includes('://') ? endpoint : `http://${endpoint}`;
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? portOf(url.protocol) : Number(url.port),
  };
}

// URL drops a port that is the default of its scheme.
const portOf = (protocol: string): number => (protocol === 'https:' ? 443 : protocol === 'http:' ? 80 : DEFAULT_PORT);

async function resolve(host: string): Promise<Address[]> {
  const literal = parseAddress(host);
  if (literal !== undefined) return [literal];
  try {
    const answers = await lookup(host, { all: true });
    return answers.map(({ address }) => parseAddress(address)).filter((address) => address !== undefined);
  } catch {
    return [];
  }
}
