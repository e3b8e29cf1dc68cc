import type { Health } from '../../api/health.ts';
import type { NameServerRecord } from '../../api/types.ts';
import type { Config } from '../../config/config.ts';
import { splitListen } from '../../config/values.ts';
import { Backoff } from '../../core/backoff.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { parseAddress } from '../../core/ip.ts';
import { sleep } from '../../core/job.ts';
import { registerZones, unregisterZones } from '../../host/split-dns.ts';
import type { Log } from '../../observe/log.ts';
import { Responder } from './responder.ts';
import { DnsServer } from './server.ts';
import type { NameFacts, Zone } from './zone.ts';

export interface ServiceNamesOptions {
  readonly dns: Config['dns'];
  readonly facts: NameFacts;
  readonly health: Health;
  readonly log: Log;
}

/** How often it is looked whether resolved still has it; a resolved that came later, or was started anew, is found so. */
const LOOK_MS = 60_000;

/**
 * Names of services, answered on this machine: the server on its loopback address, and systemd-resolved sending the zones
 * there. Both may be missing, and are tried again; the agent goes on.
 *
 *   resolved ──zones──▶ server ──▶ responder ──▶ service model
 */
export class ServiceNames {
  readonly #options: ServiceNamesOptions;
  readonly #zones: readonly Zone[];
  readonly #responder: Responder;
  #server: DnsServer | undefined;
  #resolved: NameServerRecord['resolved'] = 'absent';

  constructor(options: ServiceNamesOptions) {
    const { dns, facts } = options;
    this.#options = options;
    this.#zones = zonesOf(dns);
    const address = parseAddress(this.#listen.host) ?? { family: 4, words: [0] };
    this.#responder = new Responder({ zones: this.#zones, ttl: dns.ttl, address, facts });
  }

  get #listen(): { readonly host: string; readonly port: number } {
    return splitListen(this.#options.dns.listen) ?? { host: '', port: 0 };
  }

  /** For `status`; undefined when it is not wanted. */
  get record(): NameServerRecord | undefined {
    const { dns } = this.#options;
    if (!dns.enabled) return undefined;
    const zones = this.#zones.map(({ apex }) => apex.join('.'));
    const serving = this.#server !== undefined;
    return { listen: dns.listen, zones, serving, resolved: this.#resolved, messages: this.#responder.counts };
  }

  /** The full names of a service. */
  namesOf({ namespace, name }: { readonly namespace: string; readonly name: string }, isGlobal: boolean): string[] {
    return this.#zones
      .filter(({ kind }) => kind === 'cluster' || isGlobal)
      .map(({ apex }) => [name, namespace, ...apex].join('.'));
  }

  /** Until the signal; then nothing is left of it. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    // What an earlier run has left, which may have been killed: nobody answers yet, or ever again.
    if (!this.#options.dns.enabled) return this.#unregister();
    const backoff = new Backoff({ minMs: 1000, maxMs: LOOK_MS });
    while (!signal.aborted) {
      if (await this.#serve()) {
        backoff.reset();
        await this.#register(signal);
        await sleep(LOOK_MS, signal);
      } else {
        await this.#unregister();
        await sleep(backoff.next(), signal);
      }
    }
    await this.#unregister();
    await this.#server?.close();
    this.#server = undefined;
  }

  /** @returns whether it serves */
  async #serve(): Promise<boolean> {
    if (this.#server !== undefined) return true;
    const { dns, health, log } = this.#options;
    try {
      const limits = { responder: this.#responder, perSecond: dns.maxQueries };
      this.#server = await DnsServer.open({ ...this.#listen, ...limits });
      health.clear('dns', 'AGT-DNS');
      log.info('names of services are answered', { listen: dns.listen });
      return true;
    } catch (error) {
      health.set('dns', { code: 'AGT-DNS', text: messageOf(error), place: dns.listen });
      return false;
    }
  }

  async #register(signal: AbortSignal): Promise<void> {
    const { dns, health } = this.#options;
    // It serves another network namespace, and always will.
    if (this.#resolved === 'elsewhere') return;
    if (dns.resolved === 'off') {
      this.#resolved = 'off';
      return this.#unregister();
    }
    try {
      const zones = this.#zones.map(({ apex }) => apex.join('.'));
      this.#resolved = await registerZones({ server: dns.listen, zones }, signal);
      health.clear('dns', 'AGT-RESOLVED');
    } catch (error) {
      if (signal.aborted) return;
      this.#resolved = 'failed';
      this.#tell(error);
    }
  }

  async #unregister(): Promise<void> {
    try {
      await unregisterZones();
      if (this.#resolved === 'registered') this.#resolved = 'absent';
      this.#options.health.clear('dns', 'AGT-RESOLVED');
    } catch (error) {
      this.#tell(error);
    }
  }

  #tell(error: unknown): void {
    const place = error instanceof MeshError ? error.place : undefined;
    this.#options.health.set('dns', { code: 'AGT-RESOLVED', text: messageOf(error), place, severity: 'warning' });
  }
}

function zonesOf({ domain, clusterset }: Config['dns']): Zone[] {
  const zone = (kind: Zone['kind'], text: string | undefined): Zone[] =>
    text === undefined ? [] : [{ kind, apex: ['svc', ...text.split('.')] }];
  return [...zone('cluster', domain), ...zone('clusterset', clusterset)];
}
