import { networkInterfaces } from 'node:os';
import { messageOf } from '../../core/errors.ts';
import { type Address, parseAddress, parsePrefix } from '../../core/ip.ts';
import { JobGroup } from '../../core/job.ts';
import type { Operation } from '../../kvstore/transaction.ts';
import type { HubConfig } from '../config.ts';
import type { Leadership } from '../election.ts';
import { AuditLog } from '../enrolment/audit.ts';
import { Books } from '../enrolment/books.ts';
import { giveBack } from '../give-back.ts';
import { IdentityAllocator } from '../identities/allocator.ts';
import { IdentityCollector } from '../identities/collector.ts';
import type { HubContext, HubPart, PartFactory } from '../part.ts';
import { Publisher } from '../publish/publisher.ts';
import { ServicePublisher } from '../services/service-publisher.ts';
import { hubFactsOf } from '../workloads/hub-facts.ts';
import { Absence, type Absent, type Missing } from './absence.ts';
import type { DiaryEntry, RegistrationEvent } from './diary.ts';
import { Liveness } from './liveness.ts';
import { RecordWriter } from './record-writer.ts';
import { Responder } from './responder.ts';
import { notUnicast } from './review.ts';
import { Troubles } from './troubles.ts';

/** Settings that tests shorten. */
export interface RegistrationTiming {
  readonly graceMs?: number;
  readonly heartbeatMs?: number;
  readonly collectMs?: number;
  readonly livenessMs?: number;
  readonly unreachableMs?: number;
}

/** Registration, identities and the cluster of the hub, by the one that leads. */
export const registrationPart: PartFactory = registrationPartWith({});

export function registrationPartWith(timing: RegistrationTiming): PartFactory {
  return { where: 'leader', create: (context, leader) => new RegistrationPart(context, leader, timing) };
}

/** All hubs allocate under one name: whoever leads goes on with the keys of the one before. */
const SUFFIX = 'hub';
/** Machines that were looked at. */
const MANY = 2000;
/** So many are named, of what is told together. */
const NAMED = 3;

class RegistrationPart implements HubPart {
  readonly name = 'registration';
  readonly #context: HubContext;
  readonly #allocator: IdentityAllocator;
  readonly #collector: IdentityCollector;
  readonly #publisher: Publisher;
  readonly #records: RecordWriter;
  readonly #troubles: Troubles;
  readonly #responder: Responder;
  readonly #services: ServicePublisher;
  readonly #liveness: Liveness;
  readonly #absence: Absence;
  readonly #jobs: JobGroup;

  constructor(context: HubContext, leader: Leadership, timing: RegistrationTiming) {
    const { store, config, health } = context;
    const { book, records, foreign, services, connections } = hubFactsOf(store);
    const onProblem = (message: string): void => context.log.warn(message);
    const { transact } = leader;
    const { graceMs, heartbeatMs, collectMs, livenessMs, unreachableMs } = timing;
    this.#context = context;
    this.#jobs = new JobGroup((name, error) => onProblem(`${name} ended: ${messageOf(error)}`));
    this.#allocator = new IdentityAllocator({
      store,
      transact,
      clusterId: config.cluster.id,
      max: config.maxConnectedClusters,
      suffix: SUFFIX,
      onProblem,
    });
    this.#collector = new IdentityCollector({
      allocator: this.#allocator,
      transact,
      onProblem,
      ...(collectMs !== undefined && { intervalMs: collectMs }),
    });
    this.#publisher = new Publisher({
      store,
      leader,
      cluster: config.cluster,
      max: config.maxConnectedClusters,
      onProblem,
      ...(heartbeatMs !== undefined && { heartbeatMs }),
    });
    const books = new Books(store);
    const log = new AuditLog({ store, log: context.log, now: Date.now });
    const audit = (workload: string, entry: DiaryEntry) => auditEntry({ log, books, workload, entry });
    this.#records = new RecordWriter({ transact, audit, onProblem });
    this.#troubles = new Troubles(health);
    this.#responder = new Responder({
      store,
      leader,
      cluster: config.cluster,
      pools: config.pools.map((pool) => parsePrefix(pool)).filter((pool) => pool !== undefined),
      book,
      foreign,
      identities: this.#allocator,
      publisher: this.#publisher,
      records: this.#records,
      known: records.entries(),
      troubles: this.#troubles,
      own: ownAddresses(config),
      services,
      isRevoked: (name) => isRevoked(books, name),
      onEvent: (workload, event) => this.#say(workload, event),
      onProblem,
      ...(graceMs !== undefined && { graceMs }),
    });
    this.#liveness = new Liveness({
      store,
      machines: () => this.#responder.beating(),
      onSilent: (name, since) => this.#responder.setSilent(name, since),
      onDoubt: (text) =>
        health.check('services', 'HUB-SILENCE', text === undefined ? undefined : { text, severity: 'warning' }),
      onProblem,
      ...(livenessMs !== undefined && { roundMs: livenessMs }),
    });
    this.#absence = new Absence({
      connections,
      services,
      machines: () => this.#responder.registered(),
      onDecided: (name, unreachable) => this.#responder.setUnreachable(name, unreachable),
      onRound: (absent) => tellAbsent(health, absent),
      onProblem,
      afterMs: unreachableMs ?? config.services.unreachableAfter * 1000,
      ...(unreachableMs !== undefined && { roundMs: unreachableMs / 10 }),
    });
    this.#services = new ServicePublisher({
      table: services,
      cluster: config.cluster,
      put: (key, value) => this.#publisher.setService(key, value),
      onSelected: (workloads) => {
        for (const name of workloads) this.#responder.touch(name);
      },
      health,
      onProblem,
    });
  }

  async start(): Promise<void> {
    await hubFactsOf(this.#context.store).ready();
    await this.#allocator.ready();
    const published = await this.#publisher.published();
    await this.#publisher.start();
    // Before the canaries, which say that everything is there.
    this.#services.start();
    await this.#responder.start(published);
    this.#collector.start();
    this.#liveness.start();
    this.#absence.start();
    const storm = {
      amount: () => this.#responder.worked,
      many: MANY,
      isBusy: () => this.#responder.pending > 0,
    };
    this.#jobs.start('memory', (signal) => giveBack(storm, signal));
  }

  async stop(): Promise<void> {
    await this.#jobs.stop();
    await this.#services.stop();
    await this.#liveness.stop();
    await this.#absence.stop();
    await this.#records.stop();
    // At once: who waits for the lock of an identity would wait for a minute.
    await Promise.all([this.#allocator.close(), this.#collector.stop(), this.#responder.stop()]);
    await this.#publisher.close();
    this.#troubles.close();
  }

  status(): object {
    return {
      complete: this.#publisher.complete,
      machines: this.#responder.counts(),
      waiting: this.#responder.pending,
      refused: this.#troubles.size,
      published: this.#publisher.size,
      services: this.#services.size,
      pendingKeys: this.#publisher.pending,
      leases: this.#publisher.leases,
      lastError: this.#publisher.lastError ?? null,
      identities: this.#allocator.size,
      identitiesCollected: this.#collector.collected,
    };
  }

  #say(workload: string, { event, ...facts }: RegistrationEvent): void {
    const { log } = this.#context;
    if (event === 'registration-refused') log.warn(WORDS[event], { workload, ...facts });
    else log.info(WORDS[event], { workload, ...facts });
  }
}

/** Those that are missing longest by name. */
function tellAbsent(health: HubContext['health'], { out, kept }: Absent): void {
  const trouble = (services: Absent['out']) => {
    if (services.size === 0) return undefined;
    const named = [...services].slice(0, NAMED).map(([key, machines]) => `${key}: ${someOf(machines)}`);
    const more = services.size > NAMED ? [`and ${services.size - NAMED} more services`] : [];
    return { text: [...named, ...more].join('; '), severity: 'warning' } as const;
  };
  health.check('services', 'HUB-MACHINES-GONE', trouble(out));
  health.check('services', 'HUB-MACHINES-KEPT', trouble(kept));
}

function someOf(machines: readonly Missing[]): string {
  const first = [...machines].sort((a, b) => a.since - b.since).slice(0, NAMED);
  const named = first.map(({ name, since }) => `${name} since ${new Date(since).toISOString().slice(0, 19)}Z`);
  const more = machines.length > NAMED ? ` and ${machines.length - NAMED} more` : '';
  return `${named.join(', ')}${more}`;
}

const WORDS: Readonly<Record<RegistrationEvent['event'], string>> = {
  registered: 'a machine is registered',
  'registration-refused': 'a registration is refused in part',
  'registration-ended': 'the registration of a machine ended',
  withdrawn: 'the facts of a machine are withdrawn',
};

interface AuditedEntry {
  readonly log: AuditLog;
  readonly books: Books;
  readonly workload: string;
  readonly entry: DiaryEntry;
}

async function auditEntry({ log, books, workload, entry }: AuditedEntry): Promise<Operation> {
  const { at, suppressed, ...facts } = entry;
  const byMachine = facts.event === 'registered' || facts.event === 'registration-refused';
  const serial = byMachine ? await books.newestGood(workload, at) : undefined;
  const by = byMachine ? `machine ${workload}` : 'the hub';
  return log.operation({ workload, by, ...facts, ...(serial !== undefined && { serial }) }, { at, suppressed });
}

/** Of all its certificates none is good any more, and not by age alone. */
async function isRevoked(books: Books, name: string): Promise<boolean> {
  const found = await Promise.all((await books.serials(name)).map((serial) => books.certificate(serial)));
  const certificates = found.flatMap((held) => held?.value ?? []);
  const good = certificates.some(({ revokedAt, notAfter }) => revokedAt === undefined && notAfter > Date.now());
  return !good && certificates.some(({ revokedAt }) => revokedAt !== undefined);
}

/** Where machines and clusters reach this hub: none of them can have that address. */
export function ownAddresses(config: HubConfig): Address[] {
  const listening = [config.listen.etcd, config.listen.enrolment].map((listen) =>
    listen.replace(/:[0-9]+$/, '').replace(/^\[|\]$/g, ''),
  );
  const devices = Object.values(networkInterfaces()).flatMap(
    (addresses) => addresses?.map(({ address }) => address) ?? [],
  );
  return [...config.names, ...listening, ...devices]
    .map((text) => parseAddress(text.replace(/%.*$/, '')))
    .filter((address) => address !== undefined)
    .filter((address) => notUnicast(address) === undefined);
}
