import { join } from 'node:path';
import type { DnsForgery, DnsMode, DnsQuestion, DnsRecords } from './dns-worker.ts';
import { JsonWorker } from './json-worker.ts';
import type { Place } from './place.ts';

/** DNS in one place: serves, asks or forges. */
export class DnsPlace {
  readonly #worker: JsonWorker;

  private constructor(worker: JsonWorker) {
    this.#worker = worker;
  }

  static async open(place: Place): Promise<DnsPlace> {
    return new DnsPlace(await JsonWorker.start(place.namespace, join(import.meta.dirname, 'dns-worker.ts')));
  }

  async serve(...addresses: readonly string[]): Promise<void> {
    await this.#order('serve', { addresses });
  }

  async records(records: DnsRecords): Promise<void> {
    await this.#order('records', { records });
  }

  async mode(mode: DnsMode): Promise<void> {
    await this.#order('mode', { mode });
  }

  /** Undefined when no answer came. */
  async ask(question: DnsQuestion): Promise<readonly string[] | undefined> {
    const result = (await this.#order('ask', question)) as { addresses: readonly string[] } | null;
    return result?.addresses;
  }

  async forge(forgery: DnsForgery): Promise<void> {
    await this.#order('forge', forgery);
  }

  async flood(server: string, count: number): Promise<void> {
    await this.#order('flood', { server, count });
  }

  close(): Promise<void> {
    return this.#worker.stop();
  }

  #order(order: string, request: object): Promise<unknown> {
    return this.#worker.send({ order, request });
  }
}
