import type { Health } from '../../api/health.ts';
import type { ServedRecord, StatusRecord } from '../../api/types.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { type Family, formatAddress } from '../../core/ip.ts';
import type { MachineService } from '../../kvstore/codec/machine-service.ts';
import type { CheckReport, CheckReports, ServingReport } from '../../kvstore/codec/serving-report.ts';
import type { Store } from '../../kvstore/store.ts';
import type { Registered } from '../../mesh/registration.ts';
import type { Machine } from '../machine.ts';
import { SelfChecks } from './self-checks.ts';
import { ServedServices } from './served-services.ts';
import { readServing, servingFile, writeServing } from './serving-file.ts';

export interface ServingOptions {
  readonly stateDir: string;
  readonly machine: Pick<Machine, 'ipv4' | 'ipv6'>;
  readonly health: Pick<Health, 'set' | 'check' | 'clear'>;
  /** What the hub is told is another. */
  readonly onReport: () => void;
  /** What the hub says of the affinity of its services is another. */
  readonly onAffinities: () => void;
}

const SAVE_MS = 500;
/** A list of services comes one by one. */
const COLLECT_MS = 20;
const SHOWN = 3;
/** A machine that is checked shows that it lives. */
const BEAT_S = 15;

/**
 * What this machine serves for its hub: which services select it, whether it can, and whether it is to.
 *
 *   services of the hub, labels ──▶ checks of own ports ──┐
 *   operator ──▶ drained ─────────────────────────────────┴──▶ report, in the registration ──▶ hub publishes or not
 */
export class Serving {
  readonly #options: ServingOptions;
  readonly #services: ServedServices;
  readonly #checks: SelfChecks;
  #drained: number | undefined;
  #saving: NodeJS.Timeout | undefined;
  #changing: NodeJS.Timeout | undefined;
  #affinities = '[]';
  /** What an earlier run found, until it is known what there is to check. */
  #before: CheckReports | undefined;
  #written: Promise<void> = Promise.resolve();
  #labels = '';

  constructor(options: ServingOptions) {
    this.#options = options;
    this.#services = new ServedServices(() => {
      this.#changing ??= setTimeout(() => this.#servicesChanged(), COLLECT_MS).unref();
    });
    this.#checks = new SelfChecks({ onChange: () => this.#resultChanged() });
  }

  get file(): string {
    return servingFile(this.#options.stateDir);
  }

  /** Takes back what an earlier run knew. Never rejects. */
  async load(): Promise<void> {
    try {
      const { drained, checks } = await readServing(this.file);
      this.#drained = drained;
      this.#checks.restore(checks);
      this.#before = checks;
    } catch (error) {
      const text = `whether this machine was drained is not known: ${messageOf(error)}`;
      this.#options.health.set('serving', { code: 'AGT-STATE', text, place: this.file, severity: 'warning' });
    }
  }

  /** The hub, and what it says that this machine is. */
  follow(store: Store, { labels }: Registered): void {
    const text = labels.map((label) => label.text).join(';');
    if (text !== this.#labels) {
      this.#labels = text;
      this.#services.setLabels(labels);
    }
    this.#services.follow(store);
  }

  /** The machine has other addresses. */
  addressesChanged(): void {
    this.#look();
  }

  get report(): ServingReport {
    // A restart takes nobody out: the registration is there before the services are listed.
    const checks = this.#before ?? this.#checks.reports();
    return { drained: this.#drained, checks, beat: checks.size > 0 ? BEAT_S : undefined };
  }

  get drained(): number | undefined {
    return this.#drained;
  }

  /** Services that have this machine as a backend, or would. */
  get selecting(): ReadonlyMap<string, MachineService> {
    return this.#services.selecting();
  }

  get affinities(): ReadonlyMap<string, MachineService['affinity']> {
    return this.#services.affinities();
  }

  /** What the operator wants, from now on and over restarts. @throws MeshError AGT-STATE when it cannot be kept */
  async drain(wanted: boolean): Promise<void> {
    if (wanted === (this.#drained !== undefined)) return;
    const before = this.#drained;
    this.#drained = wanted ? Date.now() : undefined;
    try {
      await this.#save();
    } catch (cause) {
      this.#drained = before;
      throw new MeshError('AGT-STATE', messageOf(cause), { place: this.file, cause });
    }
    this.#options.onReport();
  }

  /** For `status`; undefined for a machine that serves nothing and is not drained. */
  view(): StatusRecord['serving'] {
    const reports = this.#checks.reports();
    const services = [...this.selecting].map(([service, { checks }]) =>
      servedRecord(service, checks.length > 0 ? reports.get(service) : NONE),
    );
    if (services.length === 0 && this.#drained === undefined) return undefined;
    return { ...(this.#drained !== undefined && { drained: this.#drained }), services };
  }

  async close(): Promise<void> {
    this.#services.close();
    this.#checks.close();
    clearTimeout(this.#changing);
    clearTimeout(this.#saving);
    if (this.#saving !== undefined) await this.#save().catch(() => undefined);
    await this.#written.catch(() => undefined);
  }

  #servicesChanged(): void {
    this.#changing = undefined;
    if (this.#services.listed) this.#before = undefined;
    this.#look();
    const affinities = JSON.stringify([...this.affinities].filter(([, affinity]) => affinity !== 'none'));
    if (affinities !== this.#affinities) {
      this.#affinities = affinities;
      this.#options.onAffinities();
    }
    const [first] = this.#services.unreadable;
    const text = first && `${first[0]}: ${first[1]}`;
    this.#options.health.check(
      'serving',
      'HUB-SERVICE-OBJECT',
      text === undefined ? undefined : { text, severity: 'warning' },
    );
  }

  #look(): void {
    const { ipv4, ipv6 } = this.#options.machine;
    const addresses = new Map<Family, string>();
    for (const address of [ipv4, ipv6])
      if (address !== undefined) addresses.set(address.family, formatAddress(address));
    this.#checks.set(this.selecting, addresses);
    this.#tell();
    this.#options.onReport();
  }

  #resultChanged(): void {
    this.#tell();
    this.#options.onReport();
    this.#saving ??= setTimeout(() => {
      this.#saving = undefined;
      void this.#save().catch((error: unknown) => {
        const text = messageOf(error);
        this.#options.health.set('serving', { code: 'AGT-STATE', text, place: this.file, severity: 'warning' });
      });
    }, SAVE_MS).unref();
  }

  #tell(): void {
    const failing = (this.view()?.services ?? []).filter(({ state }) => state === 'unhealthy');
    const named = failing.slice(0, SHOWN).map(({ service, reason }) => `${service}: ${reason}`);
    const more = failing.length > SHOWN ? `; and ${failing.length - SHOWN} more` : '';
    const trouble = { text: `${named.join('; ')}${more}`, severity: 'warning' as const };
    this.#options.health.check('serving', 'AGT-SERVING', failing.length === 0 ? undefined : trouble);
  }

  /** One write after the other; each writes what is known when it begins. */
  #save(): Promise<void> {
    const written = this.#written.catch(() => undefined).then(() => writeServing(this.file, this.report));
    this.#written = written;
    written.then(
      () => this.#options.health.clear('serving', 'AGT-STATE'),
      () => undefined,
    );
    return written;
  }
}

const NONE: ReadonlyMap<Family, CheckReport> = new Map();

function servedRecord(service: string, families: ReadonlyMap<Family, CheckReport> | undefined): ServedRecord {
  if (families === NONE) return { service, state: 'unchecked' };
  const reports = [...(families ?? [])];
  const [bad] = reports.filter(([, { healthy }]) => !healthy);
  if (bad !== undefined) {
    const where = reports.length > 1 ? `IPv${bad[0]} ` : '';
    return { service, state: 'unhealthy', since: bad[1].since, reason: `${where}${bad[1].reason}` };
  }
  const since = reports[0]?.[1].since;
  return since === undefined ? { service, state: 'checking' } : { service, state: 'healthy', since };
}
