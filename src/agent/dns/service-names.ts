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
import type { AnswerOptions } from './answer.ts';
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
const FOR_EVER_MS = 1 << 30;

/**
 * Names of services, answered on this machine: the server on its loopback address, and systemd-resolved sending the zones
 * there. Both may be missing, and are tried again; the agent goes on.
 *
 *   resolved ──zones──▶ server ──▶ responder ──▶ service model
 */
export class ServiceNames {
  readonly #options: ServiceNamesOptions;
  readonly #responder: Responder;
  #dns: Config['dns'];
  #zones: readonly Zone[];
  /** The server that is open, and how. */
  #open: { readonly server: DnsServer; readonly as: string } | undefined;
  /** Ends what is done by the settings of before. */
  #again = new AbortController();
  #moving = false;
  #resolved: NameServerRecord['resolved'] = 'absent';

  constructor(options: ServiceNamesOptions) {
    this.#options = options;
    this.#dns = options.dns;
    this.#zones = zonesOf(this.#dns);
    this.#responder = new Responder(this.#answers());
  }

  /** A change has been said, and is not in force yet. */
  get moving(): boolean {
    return this.#moving;
  }

  /** Goes over to other settings: what is the same in both goes on. */
  reconfigure(dns: Config['dns']): void {
    this.#dns = dns;
    this.#zones = zonesOf(dns);
    this.#responder.configure(this.#answers());
    this.#moving = true;
    this.#again.abort();
  }

  get #listen(): { readonly host: string; readonly port: number } {
    return splitListen(this.#dns.listen) ?? { host: '', port: 0 };
  }

  #answers(): AnswerOptions {
    const address = parseAddress(this.#listen.host) ?? { family: 4, words: [0] };
    return { zones: this.#zones, ttl: this.#dns.ttl, address, facts: this.#options.facts };
  }

  /** For `status`; undefined when it is not wanted. */
  get record(): NameServerRecord | undefined {
    const dns = this.#dns;
    if (!dns.enabled) return undefined;
    const zones = this.#zones.map(({ apex }) => apex.join('.'));
    const serving = this.#open !== undefined;
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
    while (!signal.aborted) {
      this.#again = new AbortController();
      const changed = AbortSignal.any([signal, this.#again.signal]);
      if (this.#dns.enabled) await this.#hold(changed);
      else {
        // Also what an earlier run has left, which may have been killed: nobody answers any more.
        await this.#end();
        this.#moving = this.#again.signal.aborted;
        await sleep(FOR_EVER_MS, changed);
      }
    }
    await this.#end();
  }

  /** By the settings of now, until the signal. */
  async #hold(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: 1000, maxMs: LOOK_MS });
    while (!signal.aborted) {
      const serves = await this.#serve();
      if (serves) await this.#register(signal);
      else await this.#unregister();
      this.#moving = this.#again.signal.aborted;
      if (serves) backoff.reset();
      await sleep(serves ? LOOK_MS : backoff.next(), signal);
    }
  }

  async #end(): Promise<void> {
    await this.#unregister();
    await this.#open?.server.close();
    this.#open = undefined;
    this.#options.health.clear('dns', 'AGT-DNS');
  }

  /** @returns whether it serves */
  async #serve(): Promise<boolean> {
    const { health, log } = this.#options;
    const dns = this.#dns;
    const as = `${dns.listen} ${dns.maxQueries}`;
    if (this.#open?.as === as) return true;
    await this.#open?.server.close();
    this.#open = undefined;
    try {
      const limits = { responder: this.#responder, perSecond: dns.maxQueries };
      this.#open = { server: await DnsServer.open({ ...this.#listen, ...limits }), as };
      health.clear('dns', 'AGT-DNS');
      log.info('names of services are answered', { listen: dns.listen });
      return true;
    } catch (error) {
      health.set('dns', { code: 'AGT-DNS', text: messageOf(error), place: dns.listen });
      return false;
    }
  }

  async #register(signal: AbortSignal): Promise<void> {
    const { health } = this.#options;
    const dns = this.#dns;
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
