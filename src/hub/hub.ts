import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { Health, logTrouble } from '../api/health.ts';
import { API_VERSION, type ConfigurationRecord } from '../api/types.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { JobGroup, sleep } from '../core/job.ts';
import { build } from '../host/build.ts';
import { AccessControl } from '../kvstore/access-control.ts';
import type { StoreEvent } from '../kvstore/session.ts';
import type { Log } from '../observe/log.ts';
import type { Metrics } from '../observe/metrics.ts';
import { HubRoutes } from './api.ts';
import type { HubConfig } from './config.ts';
import { Election, type Leadership } from './election.ts';
import { RevokedSerials } from './enrolment/revoked-serials.ts';
import { EtcdCare } from './etcd/care.ts';
import { EtcdService } from './etcd/etcd-service.ts';
import { bootstrapAccess, openMachineAccess } from './etcd/machine-access.ts';
import { ConnectedUsers } from './guard/connected-users.ts';
import { Guard } from './guard/guard.ts';
import type { HubPki } from './hub-pki.ts';
import { type HubStore, openHubStore, storeAccess } from './hub-store.ts';
import type { HubContext, HubPart, PartFactory } from './part.ts';
import { PartList } from './part-list.ts';
import type { HubStatusRecord } from './types.ts';

export interface HubOptions {
  readonly config: HubConfig;
  readonly pki: HubPki;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly parts: readonly PartFactory[];
  readonly onChange: () => void;
  /** What the configuration is, and what came of the last reload; where something reads it again. */
  readonly configuration?: () => ConfigurationRecord;
}

const RENEW_MS = 6 * 3_600_000;
/** How long the end of someone's rights may be unknown to another hub. */
const SWEEP_MS = 5000;
const DAY_MS = 86_400_000;
/** Everyone has to get a new authority by hand. */
const AUTHORITY_NOTICE_MS = 90 * DAY_MS;
const LEAF_NOTICE_MS = 30 * DAY_MS;

/** One hub: its etcd, its store, what runs in every hub, and what runs in the one that leads. */
export class Hub {
  readonly routes = new HubRoutes();
  readonly health: Health;
  readonly #options: HubOptions;
  readonly #id = `${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`;
  readonly #since = Date.now();
  readonly #jobs: JobGroup;
  readonly #everywhere: PartList;
  readonly #etcd: EtcdService | undefined;
  readonly #users = new ConnectedUsers();
  #led: PartList | undefined;
  #store: HubStore | undefined;
  #election: Election | undefined;
  #care: EtcdCare | undefined;
  #guard: Guard | undefined;
  #revoked: RevokedSerials | undefined;

  constructor(options: HubOptions) {
    this.#options = options;
    const { config, pki, log, onChange } = options;
    this.health = new Health((record, change) => {
      logTrouble(log, record, change);
      onChange();
    });
    this.#jobs = new JobGroup((name, error) => log.error('background work ended', { name, error }));
    this.#everywhere = new PartList('everywhere', { log, health: this.health });
    if (config.etcd.endpoints.length === 0) {
      const { folder } = pki;
      this.#etcd = new EtcdService({ config, folder, log: log.child('etcd'), health: this.health });
    }
    this.routes.route('GET', 'status', () => ({ record: this.status() }));
  }

  get id(): string {
    return this.#id;
  }

  get leading(): boolean {
    return this.#election?.leading ?? false;
  }

  get connected(): boolean {
    return this.#store?.status.state === 'connected';
  }

  /** How it goes, in one line. */
  get line(): string {
    const leader = this.#election?.leader;
    const role = this.leading ? 'leads' : leader === undefined ? 'no leader' : `${leader.id} leads`;
    const error = this.health.list().find(({ severity }) => severity === 'error');
    const trouble = error === undefined ? '' : `; ${error.code} ${error.text}`;
    return `${role}; store ${this.#store?.status.state ?? 'connecting'}${trouble}`;
  }

  /** Resolves when everything runs that runs in every hub. Waits for etcd as long as it takes. */
  async start(signal: AbortSignal): Promise<void> {
    const { config, pki } = this.#options;
    this.#jobs.start('certificates', (ended) => this.#keepCertificates(ended));
    await this.#etcd?.start();
    if (signal.aborted) return;
    await this.#openGuard(signal);
    const store = openHubStore({ config, folder: pki.folder, onEvent: (event) => this.#onStoreEvent(event) });
    this.#store = store;
    this.#revoked = new RevokedSerials(store);
    store.onStatus(() => this.#watchStore(store));
    if (this.#etcd === undefined) await this.#bootstrap(store, signal);
    if (signal.aborted) return;
    this.#jobs.start('guests', (ended) => this.#sweepGuests(store, ended));
    const context = this.#context(store);
    this.#care = new EtcdCare(context);
    const parts = this.#options.parts.flatMap((factory) =>
      factory.where === 'everywhere' ? [factory.create(context)] : [],
    );
    await this.#everywhere.start([this.#care, ...parts], signal);
    if (signal.aborted) return;
    this.#election = new Election({
      store,
      id: this.#id,
      // Our own etcd listens to us alone, and one hub at a time works in our folder.
      alone: this.#etcd !== undefined,
      lead: (leader) => this.#lead(context, leader),
      onChange: this.#options.onChange,
      onProblem: (message, error) => this.#options.log.warn(message, { error }),
    });
  }

  async stop(): Promise<void> {
    await this.#election?.stop();
    await this.#everywhere.stop();
    await this.#jobs.stop();
    await this.#guard?.stop();
    this.#revoked?.close();
    await this.#store?.close();
    await this.#etcd?.stop();
  }

  status(): HubStatusRecord {
    const { config, pki, configuration } = this.#options;
    const health = this.health.list();
    const leader = this.#election?.leader;
    const process_ = this.#etcd?.process;
    return {
      apiVersion: API_VERSION,
      kind: 'HubStatus',
      state: health.length === 0 && this.connected ? 'ok' : 'degraded',
      version: build.version,
      pid: process.pid,
      since: this.#since,
      cluster: config.cluster,
      names: config.names,
      listen: config.listen,
      leader: leader === undefined ? null : { ...leader, here: leader.id === this.#id && this.leading },
      store: this.#storeRecord(),
      etcd: {
        own: this.#etcd !== undefined,
        process:
          process_ === undefined ? null : { state: process_.state, pid: process_.pid ?? null, starts: process_.starts },
        members: (this.#care?.members ?? []).map((member) => ({
          endpoint: member.endpoint,
          version: member.version,
          leader: member.leaderId === member.memberId,
          revision: member.revision,
          size: member.size,
          sizeInUse: member.sizeInUse,
        })),
        quota: this.#etcd === undefined ? null : config.etcd.quota,
        alarms: (this.#care?.alarms ?? []).map(({ kind }) => kind),
      },
      guard: this.#guard?.status ?? null,
      certificates: this.#certificates(),
      ...(configuration !== undefined && { configuration: configuration() }),
      caHash: pki.ca.publicKeyHash,
      parts: [...this.#everywhere.records(), ...(this.#led?.records() ?? [])],
      health,
    };
  }

  #certificates(): HubStatusRecord['certificates'] {
    try {
      return Object.entries(this.#options.pki.expiry).map(([name, date]) => ({ name, notAfter: date.getTime() }));
    } catch {
      // What is missing is told by `health`, at the next look.
      return [];
    }
  }

  #storeRecord(): HubStatusRecord['store'] {
    const status = this.#store?.status;
    if (status === undefined) return { state: 'connecting', endpoints: [], summary: 'waiting for etcd', leases: 0 };
    const { state, endpoints, summary, leases } = status;
    return { state, endpoints, summary, leases };
  }

  #context(store: HubStore): HubContext {
    const { config, pki, log, metrics } = this.#options;
    const { session } = store;
    const onRevoked = (user: string): void => this.#onRevoked(user);
    const access = openMachineAccess({ session, cluster: config.cluster.name, onRevoked });
    const leading = (): boolean => this.leading;
    const { health, routes: api } = this;
    const here = { id: this.#id, users: this.#users };
    return { config, store, pki, access, health, metrics, log, leading, api, ...here };
  }

  /** The way to etcd for everyone else. A port that is taken, or a file that is missing, is tried again. */
  async #openGuard(signal: AbortSignal): Promise<void> {
    const { config, pki, log } = this.#options;
    const access = storeAccess(config, pki.folder);
    while (!signal.aborted) {
      try {
        const guard = new Guard({
          listen: config.listen.etcd,
          server: pki.server,
          clientCa: pki.ca.certificate,
          endpoints: access.endpoints,
          etcdCa: await readFile(access.ca, 'utf8'),
          internal: pki.internal,
          standing: (serial) => this.#revoked?.standing(serial) ?? 'unknown',
          users: this.#users,
          log: log.child('guard'),
        });
        await guard.start();
        this.health.clear('guard');
        this.#guard = guard;
        return;
      } catch (cause) {
        const error = cause instanceof MeshError ? cause : new MeshError('HUB-FILES', messageOf(cause), { cause });
        this.health.fail('guard', error);
        await sleep(1000, signal);
      }
    }
  }

  /** The first hub of a given etcd makes users and roles there; all heal them. */
  async #bootstrap(store: HubStore, signal: AbortSignal): Promise<void> {
    const { config } = this.#options;
    while (!signal.aborted) {
      try {
        await bootstrapAccess(store.session, config.cluster.name);
        this.health.clear('etcd', 'HUB-ETCD');
        return;
      } catch (cause) {
        const text = cause instanceof MeshError ? cause.message : String(cause);
        const place = storeAccess(config, this.#options.pki.folder).endpoints.join(', ');
        this.health.set('etcd', { code: 'HUB-ETCD', text: `users and roles cannot be made: ${text}`, place });
        await sleep(1000, signal);
      }
    }
  }

  /** What another hub has revoked, or this one while it could not say so. */
  async #sweepGuests(store: HubStore, ended: AbortSignal): Promise<void> {
    const control = new AccessControl(store.session.request);
    while (!ended.aborted) {
      await sleep(SWEEP_MS, ended);
      const connected = this.#users.all;
      if (ended.aborted || connected.size === 0) continue;
      try {
        const known = new Set(await control.users());
        for (const user of connected) if (!known.has(user)) this.#onRevoked(user);
      } catch (error) {
        this.#options.log.debug('the users of the store could not be read', { reason: messageOf(error) });
      }
    }
  }

  async #lead(context: HubContext, leader: Leadership): Promise<void> {
    const { log } = context;
    log.info('this hub leads', { term: leader.term });
    const led = new PartList('leader', { log, health: this.health });
    this.#led = led;
    try {
      const parts = this.#options.parts.flatMap((factory): HubPart[] =>
        factory.where === 'leader' ? [factory.create(context, leader)] : [],
      );
      await led.start(parts, leader.signal);
      this.#options.onChange();
      if (!leader.signal.aborted)
        await new Promise((resolve) => leader.signal.addEventListener('abort', resolve, { once: true }));
    } finally {
      await led.stop();
      this.#led = undefined;
      log.info('this hub does not lead any more', { term: leader.term });
    }
  }

  /** etcd asks for rights when a watch begins, and never again: so the connections of this user end. */
  #onRevoked(user: string): void {
    const count = this.#guard?.cut(user) ?? 0;
    this.#options.log.info('rights were revoked', { user, connections: count });
  }

  #onStoreEvent({ kind, message, error }: StoreEvent): void {
    const log = this.#options.log.child('kvstore');
    if (kind === 'connected') log.info(message);
    else if (kind === 'failed') log.debug(message, { error });
    else log.warn(message, { error });
  }

  #watchStore(store: HubStore): void {
    const [trouble] = store.status.troubles;
    const failed = store.status.state === 'failed' || trouble !== undefined;
    const text = trouble?.message ?? store.status.summary;
    this.health.check('kvstore', 'KVS-LOST', failed ? { text } : undefined);
    this.#options.onChange();
  }

  async #keepCertificates(ended: AbortSignal): Promise<void> {
    const { pki, log } = this.#options;
    while (!ended.aborted) {
      try {
        for (const name of await pki.renew()) {
          log.info('a certificate was renewed', { name });
          if (name === 'server') this.#guard?.renew(pki.server);
        }
        for (const [name, date] of Object.entries(pki.expiry)) this.#checkExpiry(name, date);
      } catch (error) {
        if (!(error instanceof MeshError)) throw error;
        this.health.fail('certificates', error);
      }
      await sleep(RENEW_MS, ended);
    }
  }

  #checkExpiry(name: string, date: Date): void {
    const left = date.getTime() - Date.now();
    const soon = left < (name === 'ca' || name === 'internal' ? AUTHORITY_NOTICE_MS : LEAF_NOTICE_MS);
    const text = `${name} ends on ${date.toISOString()}`;
    this.health.check(`certificate/${name}`, 'HUB-CERTIFICATE', soon ? { text, severity: 'warning' } : undefined);
  }
}
