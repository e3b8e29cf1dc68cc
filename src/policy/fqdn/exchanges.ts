import { formatAddress } from '../../core/ip.ts';
import type { PacketHeaders } from '../../core/packet.ts';
import type { DnsMessage } from './dns-message.ts';

export interface ExchangesOptions {
  /** Milliseconds, of a clock that never goes back. */
  readonly now: () => number;
  /** How long an answer may take. */
  readonly maxAgeMs?: number;
  /** Queries that are waited for; the oldest go first. */
  readonly maxQueries?: number;
}

interface Waiting {
  /** Programs may ask for both families under one id. */
  count: number;
  until: number;
}

const MAX_AGE_MS = 10_000;
const MAX_QUERIES = 4096;

/**
 * DNS queries that are on their way. An answer counts when it comes from where a query went, to where the query came from,
 * with its id and its name, and it counts once: whoever does not see the queries has to guess both port and id within the
 * time that the real answer takes.
 */
export class DnsExchanges {
  readonly #options: ExchangesOptions;
  /** In the order of their last query. */
  readonly #waiting = new Map<string, Waiting>();

  constructor(options: ExchangesOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#waiting.size;
  }

  asked({ source, sourcePort, destination, destinationPort }: PacketHeaders, message: DnsMessage): void {
    if (message.response) return;
    const { now, maxAgeMs = MAX_AGE_MS, maxQueries = MAX_QUERIES } = this.#options;
    const from = `${formatAddress(source)} ${sourcePort}`;
    const key = keyOf({ from, to: `${formatAddress(destination)} ${destinationPort}` }, message);
    const count = (this.#waiting.get(key)?.count ?? 0) + 1;
    this.#waiting.delete(key);
    this.#waiting.set(key, { count, until: now() + maxAgeMs });
    for (const oldest of this.#waiting.keys()) {
      if (this.#waiting.size <= maxQueries) break;
      this.#waiting.delete(oldest);
    }
  }

  /** @returns whether the answer belongs to a query that was seen and not answered yet */
  answered({ source, sourcePort, destination, destinationPort }: PacketHeaders, message: DnsMessage): boolean {
    if (!message.response) return false;
    const to = `${formatAddress(source)} ${sourcePort}`;
    const key = keyOf({ from: `${formatAddress(destination)} ${destinationPort}`, to }, message);
    const waiting = this.#waiting.get(key);
    if (waiting === undefined) return false;
    if (--waiting.count === 0 || waiting.until < this.#options.now()) this.#waiting.delete(key);
    return waiting.until >= this.#options.now();
  }

  clear(): void {
    this.#waiting.clear();
  }
}

function keyOf({ from, to }: { readonly from: string; readonly to: string }, { id, name }: DnsMessage): string {
  return `${from} ${to} ${id} ${name}`;
}
