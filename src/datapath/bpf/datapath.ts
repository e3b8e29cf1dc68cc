import { MeshError, messageOf } from '../../core/errors.ts';
import { OneByOne } from '../../core/one-by-one.ts';
import { BpfError } from '../../host/bpf/command.ts';
import { type BpfObject, readBpfObject } from '../../host/bpf/object.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import type { LoggedPacket } from '../../host/packet-log.ts';
import type { KernelConnection } from '../connection.ts';
import type {
  ApplyReport,
  Datapath,
  DatapathStatus,
  KernelAddress,
  KernelFrontend,
  KernelPolicyRow,
} from '../datapath.ts';
import type { DesiredChanges, DesiredState } from '../desired.ts';
import { removePins } from '../pins.ts';
import { VerdictTotals } from '../verdict-totals.ts';
import { type Borders, BorderWatch } from './border.ts';
import { ChangeSet } from './change-set.ts';
import { dumpConnections } from './connections.ts';
import { readCounters } from './counters.ts';
import { type DumpOptions, dumpAddresses, dumpPolicy } from './dump.ts';
import { Ears } from './ears.ts';
import { BpfFolder } from './folder.ts';
import { Generation } from './generation.ts';
import { HeldState, readRevision, writeRevision } from './held.ts';
import { writeConfig } from './layout.ts';
import { removeBpfPolicy } from './removal.ts';
import { writeChanges } from './writer.ts';

export interface BpfLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export interface BpfOptions {
  readonly log?: BpfLog;
  /** How often counters are read and the attachments looked after, milliseconds; 2 s by default. */
  readonly checkMs?: number;
  /** Where pins go; /sys/fs/bpf by default. */
  readonly fileSystem?: string | undefined;
  /** What to load; that of this build by default. */
  readonly object?: BpfObject;
  /** `clsact` does without tcx where the kernel has it. */
  readonly attach?: 'auto' | 'clsact';
}

const CHECK_MS = 2_000;

/** What is there only between `open` and `close`. */
interface Opened {
  readonly folder: BpfFolder;
  readonly border: BorderWatch;
  readonly timer: NodeJS.Timeout;
}

/**
 * The data path in eBPF programs at the devices of the border. What it consists of is kept by pins (`BpfFolder`): a process
 * that starts finds it in force and goes on with it; one of another version fills maps of its own and then exchanges the
 * programs.
 *
 *   1. entries of the change set, for the next revision (`ChangeSet`): nobody sees them
 *   2. its configuration, then the revision: all of it is in force
 *   3. programs on devices that became external, or off those that no longer are
 *   4. with the next change set, or in a moment: entries that say nothing any more
 */
export class BpfDatapath implements Datapath {
  readonly name = 'bpf' as const;
  readonly #options: BpfOptions;
  readonly #held = new HeldState();
  readonly #totals = new VerdictTotals();
  readonly #ears = new Ears();
  #opened: Opened | undefined;
  #generation: Generation | undefined;
  /** What goes with the next change set. */
  #dead = new Map<string, Set<string>>();
  #borders: Borders | undefined;
  #listener: (what: string) => void = () => undefined;
  readonly #turns = new OneByOne();
  /** What the kernel holds is not known: the last change set failed. */
  #stale = true;
  #suspect: string | undefined;
  #appliedAt: number | undefined;
  #error: DatapathStatus['error'];
  #healed = 0;
  /** Devices are about to be looked at. */
  #looks = false;

  constructor(options: BpfOptions = {}) {
    this.#options = options;
  }

  async open(): Promise<void> {
    try {
      const folder = new BpfFolder(this.#options.fileSystem);
      const border = new BorderWatch({
        folder,
        attach: this.#options.attach ?? 'auto',
        onDevices: () => this.#devicesChanged(),
      });
      const timer = setInterval(
        () => void this.#turns.run(() => this.#check()),
        this.#options.checkMs ?? CHECK_MS,
      ).unref();
      this.#opened = { folder, border, timer };
      await this.#adopt();
      // Whether this machine can carry it: the kernel verifies the programs.
      for (const name of ['enter', 'leave'] as const) await this.#now.program(name);
      this.#stale = false;
    } catch (error) {
      await this.close();
      throw explain(error);
    }
  }

  get #kernel(): Opened {
    if (this.#opened === undefined) throw new MeshError('DPB-APPLY', 'the data path is not open');
    return this.#opened;
  }

  get #now(): Generation {
    if (this.#generation === undefined) throw new MeshError('DPB-APPLY', 'the data path is not open');
    return this.#generation;
  }

  /** Goes on with what an earlier run of this version left in force, or makes maps of its own. */
  async #adopt(): Promise<void> {
    const { folder, border } = this.#kernel;
    const object = this.#options.object ?? readBpfObject('policy');
    const attached = await border.programs();
    const kept = folder.generations();
    for (const { digest, number } of kept) {
      if (digest !== object.digest) continue;
      const generation = Generation.open({ number, object, folder });
      const inForce = generation?.programIds().some((id) => attached.has(id)) === true;
      // One that was pinned and never got onto a device may be half a thing.
      if (generation !== undefined && readRevision(generation) > 0n && (inForce || attached.size === 0)) {
        this.#use(generation);
        await this.#held.read(generation);
        return;
      }
      generation?.close();
    }
    const number = 1 + Math.max(0, ...kept.map((each) => each.number));
    this.#use(Generation.create({ number, object, folder, old: kept.map(({ path }) => path) }));
  }

  #use(generation: Generation): void {
    this.#generation = generation;
    this.#totals.take(readCounters(generation));
    this.#ears.follow(generation);
  }

  apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    return this.#turns.run(() => this.#applyNow(desired, changes));
  }

  async #applyNow(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const start = performance.now();
    try {
      const { added, removed } = await this.#applyAll(desired, changes);
      this.#appliedAt = Date.now();
      this.#error = undefined;
      // Connections are judged again when their next packet comes: none is looked up here.
      return { added, removed, tookMs: performance.now() - start, cut: 0 };
    } catch (error) {
      this.#stale = true;
      throw this.#failed(error);
    }
  }

  async #applyAll(desired: DesiredState, asked: DesiredChanges): Promise<{ added: number; removed: number }> {
    const suspect = this.#suspect;
    const doubtful = this.#stale || suspect !== undefined;
    this.#suspect = undefined;
    if (doubtful) await this.#readAgain();
    this.#bury();
    const changes: DesiredChanges = doubtful || this.#appliedAt === undefined ? { everything: true } : asked;
    const set = new ChangeSet({
      revision: this.#held.revision,
      map: (name) => this.#now.map(name),
      grow: (name, needed) => this.#grow(name, needed),
    });
    const config = await writeChanges({ desired, changes, held: this.#held, set, generation: () => this.#now });
    await set.flush();
    const moved = this.#putInForce(set, config);
    this.#borders = bordersOf(desired);
    const pinned = this.#now.pin();
    const attached = await this.#follow();
    this.#stale = false;
    if (suspect !== undefined && (moved || attached > 0 || pinned)) {
      this.#healed++;
      this.#options.log?.info(
        { what: suspect, attached, added: set.added, removed: set.removed },
        'a foreign change was healed',
      );
    }
    return { added: set.added + attached, removed: set.removed };
  }

  /** @returns whether there was anything new */
  #putInForce(set: ChangeSet, config: NonNullable<HeldState['config']>): boolean {
    const held = this.#held;
    const bytes = writeConfig(config);
    const moved = set.any || held.config === undefined || !writeConfig(held.config).equals(bytes);
    if (!moved) return false;
    // Connections of an earlier generation are judged again: no revision of it is used once more.
    const revision = held.revision === 0n ? BigInt(Date.now()) * 1000n : set.since;
    writeRevision(this.#now, revision, bytes);
    held.config = config;
    held.revision = revision;
    this.#dead = set.dead;
    return true;
  }

  /** Programs onto the devices of the border. @returns how many were attached, exchanged or taken off */
  async #follow(): Promise<number> {
    const { border, folder } = this.#kernel;
    if (this.#borders === undefined) return 0;
    const generation = this.#now;
    const done = await border.follow(this.#borders, generation);
    for (const { path } of folder.generations()) if (path !== generation.path) removePins(path);
    return done.length;
  }

  async #grow(name: string, needed: number): Promise<void> {
    const { pinned } = this.#now;
    const next = await this.#now.grown(name, needed).catch((error: unknown) => {
      throw new MeshError('DPB-FULL', `${name}: ${messageOf(error)}`, { cause: error });
    });
    this.#use(next);
    this.#options.log?.info(
      { map: name, entries: next.map(name).shape.entries },
      'a map of the policy was made larger',
    );
    if (!pinned) return;
    // What is in force is in both: from here on packets find the new one.
    next.pin();
    await this.#follow();
  }

  async #readAgain(): Promise<void> {
    this.#dead.clear();
    await this.#held.read(this.#now);
  }

  /** Entries that said nothing since the change set before this one. */
  #bury(): void {
    for (const [name, keys] of this.#dead) {
      if (keys.size > 0) this.#now.map(name).deleteAll(Buffer.from([...keys].join(''), 'latin1'));
    }
    this.#dead.clear();
  }

  /** An engine that starts a hundred containers tells of each a few times: one look is enough for those that wait. */
  #devicesChanged(): void {
    if (this.#looks) return;
    this.#looks = true;
    void this.#turns.run(() => this.#followDevices());
  }

  async #followDevices(): Promise<void> {
    this.#looks = false;
    if (this.#opened === undefined || this.#appliedAt === undefined || this.#stale) return;
    try {
      await this.#follow();
      if (this.#error?.code === 'DPB-ATTACH') this.#error = undefined;
    } catch (error) {
      this.#failed(error);
      this.#drifted(`a device cannot be followed: ${messageOf(error)}`);
    }
  }

  async #check(): Promise<void> {
    const generation = this.#generation;
    if (this.#opened === undefined || generation === undefined) return;
    try {
      this.#totals.take(readCounters(generation));
      if (this.#appliedAt === undefined || this.#stale || this.#suspect !== undefined) return;
      this.#bury();
      if (readRevision(generation) !== this.#held.revision)
        return this.#drifted('somebody else changed the maps of the policy');
      if (!generation.isKept) return this.#drifted('somebody else removed the pins of the policy');
      const attached = await this.#follow();
      if (attached > 0) {
        this.#healed++;
        this.#options.log?.warn({ attached }, 'somebody else took programs off devices; they are back');
      }
    } catch (error) {
      if (this.#opened !== undefined)
        this.#options.log?.warn({ error: messageOf(error) }, 'the policy cannot be looked after');
    }
  }

  #drifted(what: string): void {
    if (this.#suspect !== undefined) return;
    this.#suspect = what;
    this.#options.log?.warn({ what }, 'foreign change of the policy in the kernel');
    this.#listener(what);
  }

  #failed(error: unknown): MeshError {
    const failure = explain(error);
    this.#error = { code: failure.code, message: failure.message, since: this.#error?.since ?? Date.now() };
    return failure;
  }

  hear(what: 'verdicts' | 'names', onPacket: (packet: LoggedPacket) => void): () => void {
    return this.#ears.hear(what, onPacket);
  }

  get #dump(): DumpOptions {
    const generation = this.#now;
    return { generation, revision: readRevision(generation), dead: this.#dead };
  }

  async dumpAddresses(): Promise<KernelAddress[]> {
    return dumpAddresses(this.#dump);
  }

  async dumpPolicy(): Promise<KernelPolicyRow[]> {
    return dumpPolicy(this.#dump);
  }

  async dumpServices(): Promise<KernelFrontend[]> {
    return [];
  }

  async dumpConnections(): Promise<KernelConnection[]> {
    return dumpConnections(this.#now);
  }

  get status(): DatapathStatus {
    const { hosts, prefixes, classes } = this.#held;
    return {
      applied: this.#appliedAt !== undefined && this.#error === undefined && this.#suspect === undefined,
      appliedAt: this.#appliedAt,
      entries: {
        addresses: hosts[4].held.size + hosts[6].held.size,
        prefixes: prefixes[4].held.size + prefixes[6].held.size,
        policyRows: classes.in.rowCount + classes.out.rowCount,
        classes: classes.in.rows.size + classes.out.rows.size,
      },
      error: this.#error,
      healed: this.#healed,
      denied: this.#totals.denied,
      verdicts: this.#totals.counts,
      told: this.#totals.told,
      tellsNames: true,
      balances: false,
    };
  }

  onDrift(listener: (what: string) => void): void {
    this.#listener = listener;
  }

  remove(): Promise<void> {
    return this.#turns.run(async () => {
      this.#appliedAt = undefined;
      this.#borders = undefined;
      await removeBpfPolicy(this.#options.fileSystem);
      if (this.#opened !== undefined) await this.#beginAnew();
    });
  }

  async #beginAnew(): Promise<void> {
    this.#ears.follow(undefined);
    this.#generation?.close();
    this.#held.clear();
    this.#dead.clear();
    this.#totals.began();
    await this.#adopt();
    this.#stale = false;
  }

  async close(): Promise<void> {
    const opened = this.#opened;
    if (opened === undefined) return;
    await this.#turns.idle();
    this.#opened = undefined;
    clearInterval(opened.timer);
    try {
      if (this.#generation !== undefined && !this.#stale) this.#bury();
    } finally {
      this.#ears.follow(undefined);
      opened.border.close();
      this.#generation?.close();
      this.#generation = undefined;
    }
  }
}

function bordersOf({ border, overlay }: DesiredState): Borders {
  return { external: border.devices.filter((name) => name !== overlay?.device), overlay: overlay?.device };
}

function explain(error: unknown): MeshError {
  if (error instanceof BpfError) {
    const code = error.message.includes('load the eBPF program')
      ? 'DPB-VERIFIER'
      : error.code === 'HST-PERMISSION'
        ? 'DPB-PERMISSION'
        : ['E2BIG', 'ENOSPC', 'ENOMEM'].includes(error.errnoName)
          ? 'DPB-FULL'
          : 'DPB-APPLY';
    return new MeshError(code, error.message, { cause: error });
  }
  if (error instanceof NetlinkError) return new MeshError('DPB-ATTACH', error.message, { cause: error });
  if (error instanceof MeshError) {
    return error.code === 'HST-BPF' ? new MeshError('DPB-OLD', error.message, { cause: error }) : error;
  }
  return new MeshError('DPB-APPLY', messageOf(error), { cause: error });
}
