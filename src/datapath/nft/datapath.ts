import { readFileSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MeshError, messageOf } from '../../core/errors.ts';
import { type NumericIdentity, RESERVED } from '../../core/identity.ts';
import { formatIpv4, formatIpv6, formatPrefix, parseIpv6 } from '../../core/ip.ts';
import { WordTable } from '../../core/word-table.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import type { ApplyReport, Datapath, DatapathStatus, KernelAddress, KernelPolicyRow } from '../datapath.ts';
import type { DesiredChanges, DesiredState } from '../desired.ts';
import { judge } from '../judge.ts';
import { differences, putHost } from './addresses.ts';
import { ClassTracker } from './classes.ts';
import { dumpElements, ElementBatch, SHAPES, VERDICT } from './elements.ts';
import { chains, readCounter, ruleCount, watchTable } from './kernel.ts';
import {
  borderElements,
  type FlatPrefixes,
  flatPrefixes,
  ROW_MAPS,
  rangeElements,
  readMark,
  rowOfKernel,
} from './keys.ts';
import { nft } from './program.ts';
import { type AddressRange, rangePrefixes } from './ranges.ts';
import {
  arrivalText,
  hooksText,
  isHooked,
  RULE_COUNT,
  removalText,
  replacementText,
  skeletonText,
  TABLE,
} from './ruleset.ts';
import { SetTracker } from './tracker.ts';
import { cutWithdrawn, type JudgedFlow } from './withdrawn.ts';

export interface NftLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export interface NftOptions {
  readonly log?: NftLog;
  /** How often counters are read and the rules looked after, milliseconds; 10 s by default. */
  readonly checkMs?: number;
}

/** A change set above this goes in ordered parts, each correct by itself; below, it is one transaction. */
const PART_BYTES = 6 << 20;
const FIRST_PART_BYTES = 512 << 10;
/** Single addresses written between two looks at the event loop. */
const TURN = 8192;
const CUT_INTERVAL_MS = 1000;

/** The data path in one nftables table, `inet mesh_agent`, of the network namespace that the process is in. */
export class NftDatapath implements Datapath {
  readonly name = 'nftables' as const;
  readonly #options: NftOptions;
  readonly #sets = new Map<string, SetTracker>();
  readonly #classes = { in: new ClassTracker('in'), out: new ClassTracker('out') };
  readonly #hosts4 = new WordTable({ keyWords: 1, columns: 1 });
  readonly #hosts6 = new WordTable({ keyWords: 4, columns: 1 });
  readonly #own = new Set<number>();
  #socket: NetlinkSocket | undefined;
  #conntrack: NetlinkSocket | undefined;
  #events: NetlinkSocket | undefined;
  #timer: NodeJS.Timeout | undefined;
  #cutTimer: NodeJS.Timeout | undefined;
  #listener: (what: string) => void = () => undefined;
  #loaded = false;
  #stale = true;
  #suspect = false;
  #busy = false;
  #foreign: number[] = [];
  #arrival: string | undefined;
  #prefixes: FlatPrefixes = { v4: [], v6: [] };
  #desired: DesiredState | undefined;
  #audit = false;
  #cutAt = 0;
  #applied = false;
  #appliedAt: number | undefined;
  #error: DatapathStatus['error'];
  #healed = 0;
  #denied = { ingress: { packets: 0, bytes: 0 }, egress: { packets: 0, bytes: 0 } };

  constructor(options: NftOptions = {}) {
    this.#options = options;
    for (const [name, shape] of SHAPES)
      if (!name.startsWith('class_') && !this.#isRow(name)) this.#sets.set(name, new SetTracker(name, shape));
  }

  #isRow(name: string): boolean {
    return ROW_MAPS.some((row) => name === `${row}_in` || name === `${row}_out`);
  }

  async open(): Promise<void> {
    await nft((skeletonText() + hooksText()).replaceAll(`table inet ${TABLE} `, `table inet ${TABLE}_probe `), {
      check: true,
    });
    this.#socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
    this.#conntrack = new NetlinkSocket({ family: NETLINK_NETFILTER });
    this.#own.add(this.#socket.portId);
    await this.#readKernel();
    this.#events = watchTable((portId) => this.#onEvent(portId));
    this.#timer = setInterval(() => void this.#check(), this.#options.checkMs ?? 10_000);
    this.#timer.unref();
  }

  get #netlink(): NetlinkSocket {
    if (this.#socket === undefined) throw new MeshError('DPN-APPLY', 'the data path is not open');
    return this.#socket;
  }

  /** Fills the trackers with what the kernel holds. */
  async #readKernel(): Promise<void> {
    for (const set of this.#sets.values()) set.held.clear();
    this.#classes.in.clear();
    this.#classes.out.clear();
    this.#hosts4.clear();
    this.#hosts6.clear();
    const socket = this.#netlink;
    const present = await chains(socket);
    this.#loaded = isHooked(present);
    this.#arrival = present.includes('arrive') ? this.#arrival : undefined;
    if (this.#loaded && (await ruleCount(socket, 'arrive')) !== RULE_COUNT) this.#suspect = true;
    if (present.length > 0) await this.#readSets(socket);
    this.#stale = false;
  }

  async #readSets(socket: NetlinkSocket): Promise<void> {
    try {
      for (const table of [this.#hosts4, this.#hosts6]) {
        const key = new Uint32Array(table.keyWords);
        await dumpElements(socket, table.keyWords === 1 ? 'host4' : 'host6', (element) => {
          for (let i = 0; i < key.length; i++) key[i] = element.key.readUInt32BE(i * 4);
          table.set(table.insert(key), 0, element.value);
        });
      }
      for (const [name, tracker] of this.#sets) await this.#readSet(socket, name, tracker);
      for (const side of ['in', 'out'] as const) await this.#readClasses(socket, side);
    } catch (error) {
      // A table of another version may lack a set: it is made anew.
      if (!(error instanceof NetlinkError) || error.errnoName !== 'ENOENT') throw error;
      this.#loaded = false;
    }
  }

  async #readSet(socket: NetlinkSocket, name: string, tracker: SetTracker): Promise<void> {
    if (tracker.shape.kind === 'interval') {
      const count = name === 'cidr4' ? 1 : 4;
      const ranges = await readRanges(socket, name, count);
      for (const [key, value] of rangeElements(ranges, count)) tracker.held.set(key, value);
      return;
    }
    await dumpElements(socket, name, (element) => tracker.held.set(element.key.toString('latin1'), element.value));
  }

  async #readClasses(socket: NetlinkSocket, side: 'in' | 'out'): Promise<void> {
    const classes = this.#classes[side];
    for (const name of ROW_MAPS) {
      await dumpElements(socket, `${name}_${side}`, (element) => {
        classes.holdRow(readMark(element.key), rowOfKernel(name, element.key, element.keyEnd), element.value);
      });
    }
    await dumpElements(socket, `class_${side}`, (element) =>
      classes.identities.held.set(element.key.toString('latin1'), element.value),
    );
  }

  async apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const start = performance.now();
    this.#busy = true;
    try {
      this.#desired = desired;
      const report = await this.#applyAll(desired, changes);
      this.#applied = true;
      this.#appliedAt = Date.now();
      this.#error = undefined;
      const cut = await this.#cut();
      return { ...report, tookMs: performance.now() - start, cut };
    } catch (error) {
      // What the kernel took of it is unknown: the next round looks.
      this.#stale = true;
      const failure = explain(error);
      this.#error = { code: failure.code, message: failure.message, since: this.#error?.since ?? Date.now() };
      throw failure;
    } finally {
      this.#busy = false;
      this.#settleEvents();
    }
  }

  async #applyAll(desired: DesiredState, asked: DesiredChanges): Promise<{ added: number; removed: number }> {
    const healing = this.#suspect;
    if (this.#stale || this.#suspect) await this.#readKernel();
    const hooksLater = await this.#prepareTable();
    const fresh = hooksLater || healing || !this.#applied || asked.everything === true;
    const changes: DesiredChanges = fresh ? { everything: true } : asked;
    const batch = new ElementBatch(this.#netlink);
    const sweep = this.#writePolicy(desired, changes, batch);
    await this.#writeAddresses(desired, changes, { batch, limit: hooksLater ? FIRST_PART_BYTES : PART_BYTES });
    for (const rest of sweep) rest();
    await batch.send();
    if (hooksLater) await this.#nft(hooksText());
    this.#loaded = true;
    this.#suspect = false;
    if (healing) this.#healed++;
    if (changes.everything === true || changes.overlay === true) await this.#followOverlay(desired);
    return { added: batch.added, removed: batch.removed };
  }

  /** @returns whether the base chains are still to be written */
  async #prepareTable(): Promise<boolean> {
    const present = await chains(this.#netlink);
    if (isHooked(present) && !this.#suspect && this.#loaded) return false;
    if (present.includes('enter')) {
      try {
        await this.#nft(replacementText(present));
        return false;
      } catch (error) {
        this.#options.log?.warn({ error: messageOf(error) }, 'rules of another version cannot be replaced in place');
      }
    }
    await this.#nft(removalText() + skeletonText());
    await this.#readKernel();
    return true;
  }

  async #nft(text: string): Promise<void> {
    this.#own.add(await nft(text));
    // Events are named by process ids that come again: only the last few count.
    if (this.#own.size > 8) {
      const oldest = [...this.#own].find((id) => id !== this.#socket?.portId);
      if (oldest !== undefined) this.#own.delete(oldest);
    }
  }

  #writePolicy(desired: DesiredState, changes: DesiredChanges, batch: ElementBatch): (() => void)[] {
    const everything = changes.everything === true || this.#audit !== desired.border.audit;
    this.#audit = desired.border.audit;
    const sweep: (() => void)[] = [];
    for (const [side, direction] of [
      ['in', 'ingress'],
      ['out', 'egress'],
    ] as const) {
      const changed = everything ? undefined : changes[direction];
      if (!everything && changed === undefined) continue;
      sweep.push(
        this.#classes[side].become(desired[direction], { changes: changed, audit: desired.border.audit }, batch),
      );
    }
    if (everything || changes.border === true || changes.overlay === true) {
      for (const [name, elements] of borderElements(desired)) this.#sets.get(name)?.become(elements, batch);
    }
    if (everything || changes.prefixes === true) {
      this.#prefixes = flatPrefixes(desired.addresses.prefixes());
      this.#sets.get('cidr4')?.become(rangeElements(this.#prefixes.v4, 1), batch);
      this.#sets.get('cidr6')?.become(rangeElements(this.#prefixes.v6, 4), batch);
    }
    return sweep;
  }

  async #writeAddresses(
    desired: DesiredState,
    changes: DesiredChanges,
    into: { batch: ElementBatch; limit: number },
  ): Promise<void> {
    const { batch, limit } = into;
    const { hosts4, hosts6 } = desired.addresses;
    let written = 0;
    const pause = async (): Promise<void> => {
      if (batch.size > limit) await batch.send();
      if (++written % TURN === 0) await nextTurn();
    };
    if (changes.everything === true) {
      for (const [held, wanted] of [
        [this.#hosts4, hosts4],
        [this.#hosts6, hosts6],
      ] as const) {
        const keys = differences(held, wanted);
        for (let i = 0; i < keys.length; i += held.keyWords) {
          const key = keys.subarray(i, i + held.keyWords);
          putHost(held, key, wanted.lookup(key, 0), batch);
          if (batch.size > limit || written % TURN === TURN - 1) await pause();
          else written++;
        }
      }
      return;
    }
    for (const word of changes.hosts4 ?? []) {
      putHost(this.#hosts4, [word >>> 0], hosts4.lookup([word >>> 0], 0), batch);
      await pause();
    }
    for (const text of changes.hosts6 ?? []) {
      const key = parseIpv6(text);
      if (key !== undefined) putHost(this.#hosts6, key, hosts6.lookup(key, 0), batch);
      await pause();
    }
  }

  /** Keeps the arrival chain on the overlay's device, also when the device was made anew. */
  async #followOverlay(desired: DesiredState): Promise<void> {
    const device = desired.overlay?.device;
    const wanted = device === undefined ? undefined : `${device} ${interfaceIndex(device)}`;
    const present = (await chains(this.#netlink)).includes('arrive');
    if (wanted === this.#arrival && present === (wanted !== undefined)) return;
    if (device !== undefined && interfaceIndex(device) === '') return;
    // Whether the chain found at start is on this device is only known by making it again.
    const gone = present ? `flush chain inet ${TABLE} arrive\ndelete chain inet ${TABLE} arrive\n` : '';
    await this.#nft(gone + (device === undefined ? '' : arrivalText(device)));
    this.#arrival = wanted;
  }

  /** Cuts now, or soon when the last time was a moment ago. */
  async #cut(): Promise<number> {
    const wait = this.#cutAt + CUT_INTERVAL_MS - Date.now();
    if (wait <= 0) return this.#cutNow();
    this.#cutTimer ??= setTimeout(() => {
      this.#cutTimer = undefined;
      void this.#cutNow().catch((error: unknown) =>
        this.#options.log?.warn({ error: messageOf(error) }, 'connections could not be judged again'),
      );
    }, wait).unref();
    return 0;
  }

  async #cutNow(): Promise<number> {
    this.#cutAt = Date.now();
    const desired = this.#desired;
    if (desired === undefined || this.#conntrack === undefined) return 0;
    return cutWithdrawn(this.#conntrack, (flow) => !desired.border.audit && this.#denies(desired, flow));
  }

  #denies(desired: DesiredState, flow: JudgedFlow): boolean {
    const known = this.#identityOf(desired, flow);
    // The overlay's own word on the identity is gone with its packet: where the address says nothing, the flow stays.
    if (known === undefined && flow.overlay) return false;
    const world = !desired.border.dualStack
      ? RESERVED.world
      : flow.family === 4
        ? RESERVED.worldIpv4
        : RESERVED.worldIpv6;
    return (
      judge(desired[flow.direction], { identity: known ?? world, protocol: flow.protocol, port: flow.port }) === 'deny'
    );
  }

  #identityOf(desired: DesiredState, flow: JudgedFlow): NumericIdentity | undefined {
    const words = Array.from({ length: flow.peer.length / 4 }, (_, i) => flow.peer.readUInt32BE(i * 4));
    const host = (flow.family === 4 ? desired.addresses.hosts4 : desired.addresses.hosts6).lookup(words, 0);
    if (host !== undefined) return host as NumericIdentity;
    const at = words.reduce((all, word) => (all << 32n) | BigInt(word), 0n);
    return find(flow.family === 4 ? this.#prefixes.v4 : this.#prefixes.v6, at)?.value as NumericIdentity | undefined;
  }

  #onEvent(portId: number | undefined): void {
    if (portId !== undefined && this.#own.has(portId)) return;
    // A program of ours that runs now is only known by its number when it has ended.
    if (this.#busy) {
      if (this.#foreign.length < 64) this.#foreign.push(portId ?? -1);
      return;
    }
    this.#drifted(
      portId === undefined ? 'events were lost' : `process or socket ${portId} changed table inet ${TABLE}`,
    );
  }

  #settleEvents(): void {
    const foreign = this.#foreign.filter((portId) => !this.#own.has(portId));
    this.#foreign = [];
    if (foreign.length > 0) this.#drifted('the table was changed while it was written');
  }

  #drifted(what: string): void {
    if (!this.#loaded || this.#suspect) return;
    this.#suspect = true;
    this.#options.log?.warn({ what }, 'foreign change of the packet filter');
    this.#listener(what);
  }

  async #check(): Promise<void> {
    if (this.#busy || this.#socket === undefined || !this.#loaded) return;
    try {
      if (!isHooked(await chains(this.#socket))) return this.#drifted('rules are missing');
      await this.#readCounters();
    } catch (error) {
      this.#options.log?.warn({ error: messageOf(error) }, 'the packet filter cannot be read');
    }
  }

  /** Denials by row are in the rows' own counters, the rest in the named ones. */
  async #readCounters(): Promise<void> {
    const rows = await this.dumpPolicy();
    for (const [direction, name] of [
      ['ingress', 'denied_in'],
      ['egress', 'denied_out'],
    ] as const) {
      const total = await readCounter(this.#netlink, name);
      for (const row of rows) {
        if (row.direction !== direction || row.verdict !== 'deny') continue;
        total.packets += row.packets;
        total.bytes += row.bytes;
      }
      this.#denied[direction] = total;
    }
  }

  async dumpAddresses(): Promise<KernelAddress[]> {
    const found: KernelAddress[] = [];
    const add = (prefix: string, identity: number): void =>
      void found.push({ prefix, identity, tunnelEndpoint: '0.0.0.0' });
    const socket = this.#netlink;
    if ((await chains(socket)).length === 0) return found;
    for (const [name, family] of [
      ['cidr4', 4],
      ['cidr6', 6],
    ] as const) {
      for (const range of await readRanges(socket, name, family === 4 ? 1 : 4)) {
        for (const prefix of rangePrefixes(range, family)) add(formatPrefix(prefix), range.value);
      }
    }
    await dumpElements(socket, 'host4', ({ key, value }) => add(`${formatIpv4(key.readUInt32BE(0))}/32`, value));
    await dumpElements(socket, 'host6', ({ key, value }) => {
      add(`${formatIpv6([0, 4, 8, 12].map((at) => key.readUInt32BE(at)))}/128`, value);
    });
    return found;
  }

  async dumpPolicy(): Promise<KernelPolicyRow[]> {
    const found: KernelPolicyRow[] = [];
    const socket = this.#netlink;
    if ((await chains(socket)).length === 0) return found;
    for (const [side, direction] of [
      ['in', 'ingress'],
      ['out', 'egress'],
    ] as const) {
      const members = new Map<number, number[]>();
      await dumpElements(socket, `class_${side}`, ({ key, value }) => {
        const list = members.get(value);
        if (list === undefined) members.set(value, [readMark(key)]);
        else list.push(readMark(key));
      });
      for (const name of ROW_MAPS) {
        await dumpElements(socket, `${name}_${side}`, (element) => {
          const classNumber = readMark(element.key);
          const verdict = element.value === VERDICT.drop ? 'deny' : 'allow';
          const identities = members.get(classNumber) ?? [];
          const { packets, bytes } = element;
          found.push({
            direction,
            verdict,
            identities,
            classNumber,
            ...portsOf(name, element.key, element.keyEnd),
            packets,
            bytes,
          });
        });
      }
    }
    return found;
  }

  get status(): DatapathStatus {
    return {
      applied: this.#applied && this.#error === undefined && !this.#suspect,
      appliedAt: this.#appliedAt,
      entries: {
        addresses: this.#hosts4.size + this.#hosts6.size,
        prefixes: (this.#sets.get('cidr4')?.held.size ?? 0) + (this.#sets.get('cidr6')?.held.size ?? 0),
        policyRows: this.#classes.in.rowCount + this.#classes.out.rowCount,
        classes: this.#classes.in.rows.size + this.#classes.out.rows.size,
      },
      error: this.#error,
      healed: this.#healed,
      denied: this.#denied,
    };
  }

  onDrift(listener: (what: string) => void): void {
    this.#listener = listener;
  }

  async remove(): Promise<void> {
    this.#loaded = false;
    await this.#nft(removalText());
    this.#stale = true;
    this.#applied = false;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    clearTimeout(this.#cutTimer);
    this.#events?.close();
    this.#socket?.close();
    this.#conntrack?.close();
    this.#socket = undefined;
    this.#conntrack = undefined;
  }
}

function explain(error: unknown): MeshError {
  if (error instanceof NetlinkError) {
    if (error.errnoName === 'ENFILE') return new MeshError('DPN-FULL', error.message, { cause: error });
    if (error.errnoName === 'EPERM') return new MeshError('DPN-PERMISSION', error.message, { cause: error });
    return new MeshError('DPN-APPLY', error.message, { cause: error });
  }
  return error instanceof MeshError ? error : new MeshError('DPN-APPLY', messageOf(error), { cause: error });
}

function interfaceIndex(device: string): string {
  try {
    return readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8').trim();
  } catch {
    return '';
  }
}

function find(ranges: readonly AddressRange[], at: bigint): AddressRange | undefined {
  let low = 0;
  let high = ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const range = ranges[middle] as AddressRange;
    if (at < range.first) high = middle - 1;
    else if (at > range.last) low = middle + 1;
    else return range;
  }
  return undefined;
}

/** An interval map tells starts and ends as elements of their own; a start without an end runs to the last address. */
async function readRanges(socket: NetlinkSocket, name: string, count: 1 | 4): Promise<AddressRange[]> {
  const points: { at: bigint; end: boolean; value: number }[] = [];
  await dumpElements(socket, name, ({ key, intervalEnd, value }) => {
    points.push({ at: BigInt(`0x${key.toString('hex')}`), end: intervalEnd, value });
  });
  // Of an end and a start at one address the end comes first: it belongs to the range before.
  points.sort((a, b) => (a.at === b.at ? Number(b.end) - Number(a.end) : a.at < b.at ? -1 : 1));
  const ranges: AddressRange[] = [];
  for (const [index, point] of points.entries()) {
    if (point.end) continue;
    const next = points[index + 1];
    const last = next === undefined ? (1n << BigInt(count * 32)) - 1n : next.at - 1n;
    ranges.push({ first: point.at, last, value: point.value });
  }
  return ranges;
}

function portsOf(
  name: string,
  key: Buffer,
  keyEnd: Buffer | undefined,
): { protocol: number; first: number; last: number } {
  if (name === 'all') return { protocol: 0, first: 0, last: 65535 };
  if (name === 'icmp4' || name === 'icmp6')
    return { protocol: name === 'icmp4' ? 1 : 58, first: key[4] ?? 0, last: key[4] ?? 0 };
  const protocol = key[4] ?? 0;
  if (name === 'proto') return { protocol, first: 0, last: 65535 };
  return { protocol, first: key.readUInt16BE(8), last: (keyEnd ?? key).readUInt16BE(8) };
}
