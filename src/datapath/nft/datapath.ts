import { MeshError, messageOf } from '../../core/errors.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
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
import { frontendsOf } from '../lb/dump.ts';
import { HeldServices } from '../lb/held.ts';
import { ServiceWriter } from '../lb/writer.ts';
import { NO_ADDRESSES, OPEN_POLICY } from '../nothing.ts';
import { Arrival } from './arrival.ts';
import { dumpConnections } from './connections.ts';
import { ConnectionCutter } from './cutter.ts';
import { Denials } from './denials.ts';
import { dumpAddresses, dumpPolicy } from './dump.ts';
import { ElementBatch } from './elements.ts';
import { dumpIfThere, HeldState } from './held.ts';
import { chains, generation } from './kernel.ts';
import { presentOf, ServiceDuty } from './lb/duty.ts';
import { ServiceBatch } from './lb/elements.ts';
import { readServices } from './lb/read.ts';
import { LB_MAP_NAMES } from './lb/rules.ts';
import { StaleFlows } from './lb/stale.ts';
import { probeRules } from './probe.ts';
import { nft } from './program.ts';
import { lbRemovalText, mapsText, type RulesShape, removalText, rulesText, stampOf, stampText } from './ruleset.ts';
import type { Telling } from './verdict-rules.ts';
import { TableWatch } from './watch.ts';
import { ElementWriter, send } from './writer.ts';

export interface NftLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export interface NftOptions {
  readonly log?: NftLog;
  /** How often counters are read and the rules looked after, milliseconds; 2 s by default. */
  readonly checkMs?: number;
  /** False: another data path judges; packets of services are led and refused, and without any there is no table. */
  readonly judges?: boolean;
}

/** The same state without anything to be judged. */
function servicesOnly({ border, services }: DesiredState): DesiredState {
  return {
    addresses: NO_ADDRESSES,
    ingress: OPEN_POLICY,
    egress: OPEN_POLICY,
    border: { ...border, nodes: [], watchNames: false },
    overlay: undefined,
    services,
  };
}

const CHECK_MS = 2_000;
/** Loading more frontends than this is not listened to. */
const MANY_FRONTENDS = 1000;
/** How often the rules are written anew when somebody else writes at the same time. */
const ATTEMPTS = 5;

/** What is there only between `open` and `close`. */
interface Opened {
  readonly socket: NetlinkSocket;
  readonly watch: TableWatch;
  readonly cutter: ConnectionCutter;
  readonly flows: StaleFlows;
  readonly timer: NodeJS.Timeout;
}

/**
 * The data path in one nftables table, `inet mesh_agent`, of the network namespace that the process is in. A process that
 * starts recognises what an earlier one left by the elements themselves and, for the rules, by a stamp (`stampOf`).
 *
 * In what order a change set is written, and why: elements (`ElementWriter`), then the rules if they are not right; only
 * when a table that had been in force was taken away, the rules come before the addresses, so that the machine is closed
 * rather than open until they are all there.
 */
export class NftDatapath implements Datapath {
  readonly name = 'nftables' as const;
  readonly #log: NftLog | undefined;
  readonly #checkMs: number;
  readonly #judges: boolean;
  readonly #held = new HeldState();
  readonly #writer = new ElementWriter(this.#held);
  readonly #services = new ServiceWriter(this.#held.services);
  readonly #duty = new ServiceDuty();
  readonly #denials = new Denials();
  readonly #arrival = new Arrival();
  #opened: Opened | undefined;
  #listener: (what: string) => void = () => undefined;
  #busy = false;
  /** What the kernel holds is not known: the last change set failed. */
  #stale = true;
  /** Somebody else wrote into our table. */
  #suspect: string | undefined;
  /** Until then what an earlier run left of services is as it was. */
  #knowsServices = false;
  #overlayDevice: string | undefined;
  /** The rules can tell of DNS packets. */
  #tellsNames = true;
  #appliedAt: number | undefined;
  #error: DatapathStatus['error'];
  #healed = 0;

  constructor(options: NftOptions = {}) {
    this.#log = options.log;
    this.#checkMs = options.checkMs ?? CHECK_MS;
    this.#judges = options.judges ?? true;
  }

  async open(): Promise<void> {
    await this.#probe();
    const socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
    try {
      await this.#held.read(socket);
      await this.#denials.read(socket);
      this.#stale = false;
      const timer = setInterval(() => void this.#check(), this.#checkMs).unref();
      const cutter = new ConnectionCutter((error) =>
        this.#log?.warn({ error }, 'connections could not be judged again'),
      );
      const flows = new StaleFlows(this.#held.services, (error) =>
        this.#log?.warn({ error }, 'flows of services could not be looked at'),
      );
      this.#opened = { socket, timer, cutter, flows, watch: new TableWatch(socket, (what) => this.#drifted(what)) };
    } catch (error) {
      socket.close();
      throw explain(error);
    }
  }

  async #probe(): Promise<void> {
    const has = await probeRules((part, error) =>
      this.#log?.warn({ error: messageOf(error) }, `nft or the kernel cannot do a part of the rules: ${part}`),
    );
    this.#tellsNames = has.names;
    this.#held.balances = has.services;
  }

  get #kernel(): Opened {
    if (this.#opened === undefined) throw new MeshError('DPN-APPLY', 'the data path is not open');
    return this.#opened;
  }

  async apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const start = performance.now();
    const { watch, cutter } = this.#kernel;
    this.#busy = true;
    watch.begin();
    let failed = true;
    try {
      const { added, removed } = await this.#applyAll(this.#judges ? desired : servicesOnly(desired), changes);
      this.#appliedAt = Date.now();
      this.#error = undefined;
      failed = false;
      const cut = await cutter.changed({ desired, prefixes: this.#writer.prefixes });
      return { added, removed, tookMs: performance.now() - start, cut };
    } catch (error) {
      // What the kernel took of it is unknown: the next round looks.
      if (failed) this.#stale = true;
      const failure = explain(error);
      this.#error = { code: failure.code, message: failure.message, since: this.#error?.since ?? Date.now() };
      throw failure;
    } finally {
      this.#busy = false;
      await this.#settle(failed);
    }
  }

  async #settle(failed: boolean): Promise<void> {
    try {
      await this.#opened?.watch.end(failed);
    } catch {
      this.#stale = true;
    }
  }

  async #applyAll(desired: DesiredState, asked: DesiredChanges): Promise<{ added: number; removed: number }> {
    const { socket, watch } = this.#kernel;
    const suspect = this.#suspect;
    const doubtful = this.#stale || suspect !== undefined;
    // From here on a foreign change counts as a new one.
    this.#suspect = undefined;
    if (doubtful) await this.#held.read(socket);
    const changes: DesiredChanges = doubtful || this.#appliedAt === undefined ? { everything: true } : asked;
    const names = desired.border.watchNames === true && this.#tellsNames;
    const services = await this.#duty.of(desired.services, this.#held, doubtful || this.#appliedAt === undefined);
    const telling = { rate: this.#tellsNames ? (desired.border.tellRate ?? 0) : 0 };
    const judges = this.#judges;
    const shape: RulesShape = { judges, overlay: desired.overlay !== undefined, names, services, telling };
    if (!judges && services === 'none') return this.#clear();
    const right = this.#rulesAreRight(shape);
    const replaced = this.#held.incomplete && (await this.#addMaps(telling));

    const batch = new ElementBatch(socket);
    const closeFirst = judges && !right && (this.#appliedAt !== undefined || replaced) && !this.#held.inForce;
    const close = closeFirst ? () => this.#writeRules(shape) : undefined;
    const { inForce } = this.#held;
    await this.#writer.write({ desired, changes, batch, watch, inForce, close });
    await this.#writeServices(desired, changes, batch);
    if (!right && !closeFirst) await this.#writeRules(shape);
    this.#overlayDevice = desired.overlay?.device;
    await this.#followOverlay();
    this.#stale = false;
    if (suspect !== undefined && (!right || batch.added + batch.removed > 0)) {
      this.#healed++;
      const { added, removed } = batch;
      this.#log?.info({ what: suspect, rules: !right, added, removed }, 'a foreign change was healed');
    }
    return { added: batch.added + (right ? 0 : 1), removed: batch.removed };
  }

  /** Nothing of ours is to be there. */
  async #clear(): Promise<{ added: number; removed: number }> {
    const removed = this.#held.chains.length === 0 ? 0 : 1;
    if (removed > 0) await this.#nft(removalText());
    this.#held.clear();
    this.#stale = false;
    return { added: 0, removed };
  }

  async #writeServices(desired: DesiredState, changes: DesiredChanges, batch: ElementBatch): Promise<void> {
    if (!this.#held.balances || desired.services === undefined) return;
    const wanted = desired.services === 'off' ? undefined : desired.services;
    const unsure = !this.#knowsServices || (wanted === undefined && this.#held.services.size > 0);
    const everything = changes.everything === true || unsure;
    this.#knowsServices = true;
    if (!everything && changes.services === undefined) return;
    const { watch, flows } = this.#kernel;
    const changed = everything ? undefined : changes.services;
    if (everything && wanted !== undefined && wanted.size > MANY_FRONTENDS) await watch.deafen();
    const moved = await this.#services.write({
      desired: wanted,
      changed,
      elements: new ServiceBatch(batch, () => send(batch, watch)),
    });
    flows.changed(moved);
  }

  #rulesAreRight(shape: RulesShape): boolean {
    const { chains: present, digest } = this.#held;
    return !this.#held.incomplete && present.includes(stampOf({ ...shape, digest }));
  }

  /**
   * Adds the maps that are missing. Where one is in the way that another version made otherwise, those of services are made anew,
   * and the policy stays in force; if that does not help, everything is. @returns whether the rules of the policy are gone
   */
  async #addMaps(telling: Telling): Promise<boolean> {
    const text = (present: readonly string[]): string =>
      mapsText({ services: this.#held.balances, telling, present, counted: this.#denials.totals });
    if (this.#held.chains.length === 0) this.#denials.began();
    try {
      await this.#nft(text(this.#held.chains));
    } catch (error) {
      if (this.#held.chains.length === 0 && !(error instanceof MeshError && error.code === 'DPN-RULES')) throw error;
      const kept = this.#held.inForce && (await this.#replaceServices(text));
      if (!kept) {
        this.#log?.warn({ error: messageOf(error) }, 'the table of another version is replaced');
        this.#denials.began();
        await this.#nft(removalText() + text([]));
      }
      await this.#held.read(this.#kernel.socket);
      this.#held.incomplete = false;
      return !kept;
    }
    this.#held.incomplete = false;
    return false;
  }

  /** In one transaction. @returns whether it could be done, and nothing else is in the way */
  async #replaceServices(text: (present: readonly string[]) => string): Promise<boolean> {
    const { socket } = this.#kernel;
    const { chains: present } = this.#held;
    const maps: string[] = [];
    for (const name of LB_MAP_NAMES) if (await dumpIfThere(socket, name, () => {})) maps.push(name);
    try {
      await this.#nft(lbRemovalText({ chains: present, maps }) + text(present));
      this.#log?.warn({ maps }, 'the maps of services of another version are replaced');
      return true;
    } catch {
      return false;
    }
  }

  /** Writes the rules and stamps them with what they are in the kernel: only when nobody wrote between, or his were ours. */
  async #writeRules(shape: RulesShape): Promise<void> {
    const { socket } = this.#kernel;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const before = await generation(socket);
      await this.#nft(rulesText({ ...shape, present: await chains(socket) }));
      await this.#held.readRules(socket);
      if ((await generation(socket)) !== before + 1) continue;
      await this.#nft(stampText(stampOf({ ...shape, digest: this.#held.digest })));
      await this.#held.readRules(socket);
      return;
    }
    throw new MeshError('DPN-APPLY', 'others change the packet filter without a pause');
  }

  async #followOverlay(): Promise<void> {
    const plan = await this.#arrival.plan(this.#overlayDevice, this.#held.arrival);
    if (plan === undefined) return;
    await this.#nft(plan.text);
    plan.done();
    await this.#held.readRules(this.#kernel.socket);
  }

  async #nft(text: string): Promise<void> {
    this.#kernel.watch.ranProgram(await nft(text));
  }

  #drifted(what: string): void {
    if (this.#appliedAt === undefined || this.#suspect !== undefined) return;
    this.#suspect = what;
    this.#log?.warn({ what }, 'foreign change of the packet filter');
    this.#listener(what);
  }

  async #check(): Promise<void> {
    const opened = this.#opened;
    if (this.#busy || opened === undefined) return;
    try {
      await this.#denials.read(opened.socket);
      if (this.#busy || this.#appliedAt === undefined) return;
      if ((await this.#arrival.plan(this.#overlayDevice, this.#held.arrival)) !== undefined)
        this.#drifted('the overlay device was made anew');
    } catch (error) {
      if (this.#opened !== undefined) this.#log?.warn({ error: messageOf(error) }, 'the packet filter cannot be read');
    }
  }

  async dumpAddresses(): Promise<KernelAddress[]> {
    return dumpAddresses(this.#kernel.socket);
  }

  async dumpPolicy(): Promise<KernelPolicyRow[]> {
    return dumpPolicy(this.#kernel.socket);
  }

  async dumpServices(): Promise<KernelFrontend[]> {
    // Maps that no rule looks at yet lead nobody on.
    if (presentOf(this.#held.chains) === 'none') return [];
    const held = new HeldServices();
    await readServices(held, async (map, visit) => void (await dumpIfThere(this.#kernel.socket, map, visit)));
    return frontendsOf(held, 'packet');
  }

  async dumpConnections(): Promise<KernelConnection[]> {
    return dumpConnections();
  }

  get status(): DatapathStatus {
    const { hosts4, hosts6, sets, classes, services } = this.#held;
    return {
      applied: this.#appliedAt !== undefined && this.#error === undefined && this.#suspect === undefined,
      appliedAt: this.#appliedAt,
      entries: {
        addresses: hosts4.size + hosts6.size,
        prefixes: (sets.get('cidr4')?.held.size ?? 0) + (sets.get('cidr6')?.held.size ?? 0),
        policyRows: classes.in.rowCount + classes.out.rowCount,
        classes: classes.in.rows.size + classes.out.rows.size,
        frontends: services.size,
        slots: services.slotCount,
      },
      error: this.#error,
      healed: this.#healed,
      denied: this.#denials.denied,
      ...(this.#denials.totals.size > 0 && { verdicts: this.#denials.counts, told: this.#denials.told }),
      tellsNames: this.#tellsNames,
      balances: this.#held.balances,
    };
  }

  onDrift(listener: (what: string) => void): void {
    this.#listener = listener;
  }

  async remove(): Promise<void> {
    this.#appliedAt = undefined;
    this.#overlayDevice = undefined;
    await this.#nft(removalText());
    this.#held.clear();
    this.#stale = true;
  }

  async close(): Promise<void> {
    const opened = this.#opened;
    if (opened === undefined) return;
    this.#opened = undefined;
    clearInterval(opened.timer);
    opened.watch.close();
    opened.socket.close();
    await Promise.all([opened.cutter.close(), opened.flows.close()]);
  }
}

function explain(error: unknown): MeshError {
  if (error instanceof NetlinkError) {
    if (error.errnoName === 'ENFILE' || error.errnoName === 'ENOMEM')
      return new MeshError('DPN-FULL', error.message, { cause: error });
    if (error.errnoName === 'EPERM') return new MeshError('DPN-PERMISSION', error.message, { cause: error });
    return new MeshError('DPN-APPLY', error.message, { cause: error });
  }
  return error instanceof MeshError ? error : new MeshError('DPN-APPLY', messageOf(error), { cause: error });
}
