import { MeshError, messageOf } from '../../core/errors.ts';
import type { Address, Prefix } from '../../core/ip.ts';
import { JobGroup } from '../../core/job.ts';
import { encodeLabels } from '../../core/labels.ts';
import { NO_REPORT } from '../../kvstore/codec/serving-report.ts';
import { REGISTER_PREFIX, registerKey } from '../../kvstore/paths.ts';
import type { PrefixWatch } from '../../kvstore/store.ts';
import type { Leadership } from '../election.ts';
import type { HubStore } from '../hub-store.ts';
import type { IdentityAllocator } from '../identities/allocator.ts';
import { identityLabels } from '../identities/label-filter.ts';
import { machineFacts } from '../publish/machine-facts.ts';
import type { Published, Publisher } from '../publish/publisher.ts';
import type { ServiceTable } from '../services/service-table.ts';
import type { ForeignAddresses } from '../workloads/foreign-addresses.ts';
import { securityLabels, type Workload } from '../workloads/workload.ts';
import type { WorkloadBook } from '../workloads/workload-book.ts';
import type { Registered } from './absence.ts';
import { registrationAnswer } from './answer.ts';
import type { RegistrationEvent } from './diary.ts';
import { eventsOf } from './events-of.ts';
import type { Beating } from './liveness.ts';
import { addressTexts, type Machine, newMachine, readRegistration, takeReport } from './machine.ts';
import { encodeMachineRecord, type MachineRecord, type Unreachable } from './machine-record.ts';
import { Objections } from './objections.ts';
import { Overlaps } from './overlaps.ts';
import { recordOf, troubleOf } from './record-of.ts';
import type { RecordWriter } from './record-writer.ts';
import { notUnicast, review } from './review.ts';
import type { Troubles } from './troubles.ts';
import { WorkQueue } from './work-queue.ts';

export interface ResponderOptions {
  readonly store: Pick<HubStore, 'watchPrefix' | 'read'>;
  readonly leader: Pick<Leadership, 'transact' | 'signal'>;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly pools: readonly Prefix[];
  readonly book: WorkloadBook;
  readonly foreign: ForeignAddresses;
  readonly identities: Pick<IdentityAllocator, 'acquire' | 'release'>;
  readonly publisher: Publisher;
  readonly records: RecordWriter;
  /** Records of the leaders before. */
  readonly known: Iterable<readonly [string, MachineRecord]>;
  readonly troubles: Troubles;
  /** Addresses of the hub. */
  readonly own: readonly Address[];
  readonly services: Pick<ServiceTable, 'selecting' | 'ownerOf'>;
  /** Whether the machine lost all rights, rather than its way to the store. */
  readonly isRevoked: (name: string) => Promise<boolean>;
  /** Something that goes on record. */
  readonly onEvent: (workload: string, event: RegistrationEvent) => void;
  readonly onProblem: (message: string) => void;
  /** Between the end of a registration and the withdrawal of its facts. */
  readonly graceMs?: number;
}

const GRACE_MS = 120_000;
const WORKERS = 32;
const IDENTITY_RETRY_MS = 15_000;

/**
 * Answers registrations and publishes machines, as the external-workload manager of Cilium 1.16 does (kvstore specification 6.2).
 * Labels, namespace, ranges and identity come from the administrator's object alone; of what a machine says only its
 * addresses count, and only those that it may have. One machine is looked at by one worker at a time, and always as a whole: object, registration
 * and what is published now lead to what has to be published.
 */
export class Responder {
  readonly #options: ResponderOptions;
  readonly #queue: WorkQueue;
  readonly #machines = new Map<string, Machine>();
  /** Published addresses, by text: whoever had one first keeps it. */
  readonly #taken = new Map<string, string>();
  readonly #objections: Objections;
  readonly #overlaps: Overlaps;
  readonly #jobs: JobGroup;
  readonly #unlisten: (() => void)[] = [];
  #watch: PrefixWatch | undefined;
  #worked = 0;

  constructor(options: ResponderOptions) {
    this.#options = options;
    this.#objections = new Objections(options);
    this.#overlaps = new Overlaps({
      ...options,
      addresses: (name) => this.#machines.get(name)?.accepted ?? [],
      onFound: (name, overlap) => {
        if (options.troubles.overlap(name, overlap)) this.#queue.add(name);
      },
    });
    this.#jobs = new JobGroup((name, error) => options.onProblem(`${name} ended: ${messageOf(error)}`));
    this.#queue = new WorkQueue({
      workers: WORKERS,
      work: (name) => this.#reconcile(name),
      onFailure: (name, error) => {
        if (!(error instanceof MeshError && error.code === 'HUB-NOT-LEADER'))
          options.onProblem(`workload ${name}: ${messageOf(error)}`);
      },
    });
  }

  /** Machines that are known, and keys that wait for work. */
  get size(): number {
    return this.#machines.size;
  }

  /** How often a machine was looked at. */
  get worked(): number {
    return this.#worked;
  }

  get pending(): number {
    return this.#queue.pending;
  }

  counts(): Record<MachineRecord['state'], number> {
    const counts = { waiting: 0, registered: 0, expired: 0, revoked: 0 };
    for (const { record } of this.#machines.values()) if (record !== undefined) counts[record.state]++;
    return counts;
  }

  /** Takes over what is published. Resolves when all registrations are listed; the rest follows in the background. */
  async start(published: Published): Promise<void> {
    const { book, foreign, publisher, known, leader } = this.#options;
    for (const [name, record] of known) this.#machines.set(name, newMachine(record));
    this.#takeOver(published);
    const listed = this.#watchRegistrations();
    const changes = book.read(() => queueMicrotask(() => this.#drain(changes.drain())));
    this.#unlisten.push(
      () => changes.close(),
      foreign.onChange(() => this.#foreignChanged()),
    );
    await listed;
    if (leader.signal.aborted) return;
    if (published.announced && this.#isMissing(published)) await publisher.retract();
    for (const { name } of book.values()) this.#queue.add(name);
    for (const name of this.#machines.keys()) this.#queue.add(name);
    this.#queue.start();
    this.#jobs.start('first round', async (signal) => {
      await Promise.race([this.#queue.drained(), aborted(signal)]);
      if (!signal.aborted) await publisher.announce();
    });
  }

  async stop(): Promise<void> {
    this.#watch?.close();
    for (const end of this.#unlisten) end();
    this.#overlaps.close();
    await this.#queue.stop();
    await this.#jobs.stop();
  }

  /** What is known of a machine elsewhere is another. */
  touch(name: string): void {
    this.#queue.add(name);
  }

  /** Machines that promised to show that they live. */
  *beating(): Iterable<Beating> {
    for (const [name, { registration, report, silent }] of this.#machines)
      if (registration?.session !== undefined && report.beat !== undefined)
        yield { name, session: registration.session, beat: report.beat, silent: silent !== undefined };
  }

  /** Since when it does not; undefined: it does. */
  setSilent(name: string, since: number | undefined): void {
    const machine = this.#machines.get(name);
    if (machine === undefined) return;
    machine.silent = since;
    this.#queue.add(name);
  }

  /** Machines with a registration. */
  *registered(): Iterable<Registered> {
    for (const [name, { registration, unreachable }] of this.#machines)
      if (registration !== undefined) yield { name, unreachable };
  }

  /** No hub has a connection of it; undefined: one has. */
  setUnreachable(name: string, unreachable: Unreachable | undefined): void {
    const machine = this.#machines.get(name);
    if (machine === undefined) return;
    machine.unreachable = unreachable;
    this.#queue.add(name);
  }

  /** What the leader before us published: a machine keeps its addresses over a change of leaders. */
  #takeOver(published: Published): void {
    for (const [name, node] of published.nodes) {
      if (this.#options.book.get(name) === undefined) continue;
      const machine = this.#machine(name);
      machine.accepted = node.addresses.filter(({ address }) => notUnicast(address) === undefined);
      machine.health = node.healthAddresses;
      for (const text of addressTexts(machine)) this.#taken.set(text, name);
    }
  }

  /** A machine that registered is not in the store: whoever reads it now would miss it. */
  #isMissing({ nodes }: Published): boolean {
    for (const [name, { registration }] of this.#machines)
      if (
        (registration?.node?.addresses.length ?? 0) > 0 &&
        this.#options.book.get(name) !== undefined &&
        !nodes.has(name)
      )
        return true;
    return false;
  }

  #machine(name: string): Machine {
    const machine = this.#machines.get(name) ?? newMachine();
    this.#machines.set(name, machine);
    return machine;
  }

  #drain(names: Set<string>): void {
    for (const name of names) this.#queue.add(name);
    // A range may be free now that was in somebody's way.
    for (const name of this.#options.troubles.names) this.#queue.add(name);
  }

  #watchRegistrations(): Promise<void> {
    let present: Set<string> | undefined;
    return new Promise((resolve) => {
      this.#watch = this.#options.store.watchPrefix(REGISTER_PREFIX, {
        listing: () => {
          present = new Set();
        },
        put: (name, value, revision, lease) => {
          present?.add(name);
          const machine = this.#machine(name);
          machine.registration = readRegistration(name, value, { revision, lease });
          machine.expires = undefined;
          machine.revoked = false;
          machine.silent = undefined;
          this.#queue.add(name);
        },
        remove: (name) => this.#gone(name),
        listed: () => {
          for (const [name, { registration }] of this.#machines)
            if (registration !== undefined && present?.has(name) !== true) this.#gone(name);
          present = undefined;
          resolve();
        },
      });
    });
  }

  #gone(name: string): void {
    const machine = this.#machines.get(name);
    if (machine?.registration === undefined) return;
    machine.registration = undefined;
    machine.lastSeen = Date.now();
    this.#queue.add(name);
  }

  #foreignChanged(): void {
    for (const name of this.#options.troubles.names) this.#queue.add(name);
    this.#overlaps.checkSoon();
  }

  async #reconcile(name: string): Promise<void> {
    const { book, leader } = this.#options;
    if (leader.signal.aborted) return;
    this.#worked++;
    const workload = book.get(name);
    const machine = this.#machine(name);
    if (machine.uid !== undefined && machine.uid !== workload?.uid)
      await this.#withdraw(name, 'its workload was deleted');
    if (workload === undefined) return this.#forget(name, machine);
    machine.uid = workload.uid;
    if (workload.revoked !== undefined) {
      await this.#withdraw(name, 'its workload is revoked');
      this.#tell(name, workload);
      return;
    }
    if (machine.registration === undefined) await this.#absent(name, workload);
    else await this.#present(name, workload);
    this.#tell(name, workload);
  }

  async #present(name: string, workload: Workload): Promise<void> {
    const machine = this.#machine(name);
    const { registration } = machine;
    // What has no addresses says nothing about those of before.
    if (registration?.node?.addresses.length !== 0) machine.problem = registration?.problem;
    const former = machine.identity;
    if (!(await this.#identify(name, workload))) return;
    const { node } = registration ?? {};
    if (node !== undefined && registration !== undefined) {
      takeReport(machine, this.#options.services.selecting(name));
      if (node.nodeIdentity !== 0 && node.addresses.length > 0) this.#review(name, workload);
      const answer = registrationAnswer({
        workload,
        cluster: this.#options.cluster,
        identity: machine.identity?.number ?? 0,
      });
      // Told once what it is; whoever does not adopt it, as Cilium's agent, is not told for ever.
      const wrong = node.addresses.length === 0 ? registration.text !== answer : machine.claims.length > 0;
      if (node.nodeIdentity === 0 || (wrong && machine.told !== answer)) await this.#answer(name, answer);
    }
    this.#publish(name, workload);
    await this.#release(former, machine);
  }

  /** Facts stay for a while: an agent that restarts, or a hub that was away, must not make a machine vanish. */
  async #absent(name: string, workload: Workload): Promise<void> {
    const { graceMs = GRACE_MS } = this.#options;
    const machine = this.#machine(name);
    machine.told = undefined;
    machine.problem = undefined;
    [machine.refused, machine.claims] = [[], []];
    if (machine.accepted.length === 0) {
      await this.#withdraw(name);
      return;
    }
    if (machine.expires === undefined && (await this.#options.isRevoked(name))) {
      machine.revoked = true;
      await this.#withdraw(name, 'its rights were ended');
      return;
    }
    machine.expires ??= performance.now() + graceMs;
    const left = machine.expires - performance.now();
    if (left <= 0) {
      await this.#withdraw(name, `its registration ended ${Math.round(graceMs / 1000)} s ago`);
      return;
    }
    this.#queue.addLater(name, left + 1);
    const former = machine.identity;
    if (!(await this.#identify(name, workload))) return;
    this.#publish(name, workload);
    await this.#release(former, machine);
  }

  /** False when there is none for these labels now. */
  async #identify(name: string, workload: Workload): Promise<boolean> {
    const { identities, cluster } = this.#options;
    const machine = this.#machine(name);
    const labels = identityLabels(securityLabels(workload, cluster.name));
    const text = encodeLabels(labels);
    if (machine.identity?.text === text) return true;
    try {
      machine.identity = { number: await identities.acquire(labels), labels, text };
      machine.problem = machine.registration?.problem;
      return true;
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'HUB-IDENTITY') throw error;
      machine.problem = error.message;
      this.#queue.addLater(name, IDENTITY_RETRY_MS);
      return false;
    }
  }

  /** Behind the publication of the new one. */
  async #release(former: Machine['identity'], { identity }: Machine): Promise<void> {
    if (former !== undefined && former !== identity) await this.#options.identities.release(former.labels);
  }

  #review(name: string, workload: Workload): void {
    const machine = this.#machine(name);
    const reported = machine.registration?.node;
    if (reported === undefined) return;
    const held = new Set(addressTexts(machine));
    const found = review({
      workload,
      cluster: this.#options.cluster,
      identity: machine.identity?.number ?? 0,
      reported,
      objection: (address) => this.#objections.find(address, { name, workload, held, takenBy: this.#taken }),
    });
    machine.accepted = found.accepted;
    machine.health = found.health;
    machine.refused = found.refused;
    machine.claims = found.claims;
    machine.lastSeen = Date.now();
    if (!found.accepted.some(({ type }) => type !== 'CiliumInternalIP'))
      machine.problem = 'it reports no address of its own that it may have';
    const now = new Set(addressTexts(machine));
    for (const text of now) this.#taken.set(text, name);
    for (const text of held) if (!now.has(text)) this.#free(text, name);
  }

  #free(text: string, name: string): void {
    if (this.#taken.get(text) !== name) return;
    this.#taken.delete(text);
    // Somebody else may have waited for it.
    for (const other of this.#options.troubles.names) if (other !== name) this.#queue.add(other);
  }

  /** Into the machine's own lease: an answer must not outlive the machine. */
  async #answer(name: string, answer: string): Promise<void> {
    const { store, leader } = this.#options;
    const machine = this.#machine(name);
    const key = registerKey(name);
    const found = await store.read(key);
    // What is there now comes along the watch.
    if (found === undefined || found.modRevision !== machine.registration?.revision) return;
    if (found.lease === '0') {
      machine.problem = NO_LEASE;
      return;
    }
    try {
      const { succeeded } = await leader.transact({
        when: [{ key, modRevision: found.modRevision }],
        perform: [{ put: key, value: answer, lease: found.lease }],
      });
      if (!succeeded) return;
      machine.told = answer;
      if (machine.problem === NO_LEASE) machine.problem = undefined;
    } catch (error) {
      if (!/requested lease not found/.test(messageOf(error))) throw error;
    }
  }

  #publish(name: string, workload: Workload): void {
    const { publisher, cluster } = this.#options;
    const { identity, accepted, health } = this.#machine(name);
    if (identity === undefined) return;
    const facts = { workload, cluster, identity: identity.number, addresses: accepted, healthAddresses: health };
    publisher.set(name, machineFacts(facts));
  }

  async #withdraw(name: string, why?: string): Promise<void> {
    const { publisher, identities } = this.#options;
    const machine = this.#machine(name);
    const had = machine.accepted.length > 0;
    const texts = addressTexts(machine);
    const former = machine.identity;
    [machine.accepted, machine.health, machine.refused, machine.claims] = [[], [], [], []];
    machine.identity = undefined;
    machine.told = undefined;
    machine.expires = undefined;
    machine.report = NO_REPORT;
    machine.silent = undefined;
    machine.unreachable = undefined;
    publisher.set(name, new Map());
    for (const text of texts) this.#free(text, name);
    if (had && why !== undefined) this.#note(name, { event: 'withdrawn', reason: why });
    if (former !== undefined) await identities.release(former.labels);
  }

  /** There is no object of this name. */
  async #forget(name: string, machine: Machine): Promise<void> {
    const { records, troubles } = this.#options;
    await this.#withdraw(name, 'its workload was deleted');
    machine.uid = undefined;
    if (machine.registration === undefined) {
      this.#machines.delete(name);
      troubles.clear(name);
    } else if (troubles.set(name, NO_WORKLOAD))
      this.#note(name, { event: 'registration-refused', reason: NO_WORKLOAD });
    const entries = machine.diary.take();
    if (machine.record !== undefined || entries.length > 0) records.write(name, undefined, entries);
    machine.record = undefined;
  }

  #tell(name: string, workload: Workload): void {
    const { records, troubles, publisher } = this.#options;
    const machine = this.#machine(name);
    const before = machine.record;
    const overlap = this.#overlaps.find(workload);
    troubles.overlap(name, overlap);
    const record = recordOf(machine, { workload, published: publisher.facts(name) !== undefined, overlap });
    const trouble = troubleOf(machine, record);
    if (trouble === undefined) troubles.clear(name);
    else troubles.set(name, trouble);
    for (const event of eventsOf(machine, { before, record, trouble })) this.#note(name, event);
    const entries = machine.diary.take();
    machine.record = record ?? before;
    const text = record === undefined ? undefined : encodeMachineRecord(record);
    const same = text === (before === undefined ? undefined : encodeMachineRecord(before));
    if (entries.length > 0 || (text !== undefined && !same)) records.write(name, text, entries);
  }

  #note(name: string, event: RegistrationEvent): void {
    if (this.#machine(name).diary.add(event)) this.#options.onEvent(name, event);
  }
}

const NO_WORKLOAD = 'it registers, and there is no workload of that name';
const NO_LEASE = 'its registration has no lease, so it would never end';

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
