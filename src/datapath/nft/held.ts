import type { NetlinkSocket } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import { HeldServices } from '../lb/held.ts';
import { HostTracker } from './addresses.ts';
import { ClassTracker } from './classes.ts';
import { dumpElements, type KernelElement, SHAPES } from './elements.ts';
import { arrivalDevice, chains, rulesDigest } from './kernel.ts';
import { ROW_MAPS, rangeElements, readClass, rowOfKernel } from './keys.ts';
import { readServices } from './lb/read.ts';
import { hostMap } from './names.ts';
import { type AddressRange, rangesOfPoints } from './ranges.ts';
import { SetTracker } from './tracker.ts';
import { NFT_POINTS } from './verdict-rules.ts';

/** What the kernel holds, as far as we know: read from it at start and on doubt, kept up with every change of ours. */
export class HeldState {
  /** Every map and set but those of single addresses, classes and rows. */
  readonly sets = new Map<string, SetTracker>();
  readonly classes = { in: new ClassTracker('in'), out: new ClassTracker('out') };
  readonly hosts4 = new HostTracker(4);
  readonly hosts6 = new HostTracker(6);
  readonly services = new HeldServices();
  chains: readonly string[] = [];
  /** The device that the arrival chain is on. */
  arrival: string | undefined;
  /** The maps of services are wanted. */
  balances = true;
  /** See `rulesDigest`; empty without a table. */
  digest = '';
  /** A map, a set or a chain that elements lead to is not there. */
  incomplete = true;

  constructor() {
    const rows = new Set<string>(ROW_MAPS.flatMap((name) => [`${name}_in`, `${name}_out`]));
    for (const [name, shape] of SHAPES) {
      if (!/^(class|others)_/.test(name) && !rows.has(name)) this.sets.set(name, new SetTracker(name, shape));
    }
  }

  /** Packets are judged by what is there. */
  get inForce(): boolean {
    return this.chains.includes('enter');
  }

  async read(socket: NetlinkSocket): Promise<void> {
    this.clear();
    await this.readRules(socket);
    const elements = await this.#readElements(socket);
    this.incomplete = !elements || NFT_POINTS.some(({ name }) => !this.chains.includes(name));
  }

  async readRules(socket: NetlinkSocket): Promise<void> {
    this.chains = await chains(socket);
    this.arrival = await arrivalDevice(socket);
    this.digest = this.chains.length === 0 ? '' : await rulesDigest(socket);
  }

  clear(): void {
    for (const set of this.sets.values()) set.held.clear();
    this.classes.in.clear();
    this.classes.out.clear();
    this.hosts4.clear();
    this.hosts6.clear();
    this.services.clear();
    this.chains = [];
    this.arrival = undefined;
    this.digest = '';
    this.incomplete = true;
  }

  /** @returns false when something is missing */
  async #readElements(socket: NetlinkSocket): Promise<boolean> {
    let complete = true;
    const read = async (name: string, visit: (element: KernelElement) => void): Promise<void> => {
      if (!(await dumpIfThere(socket, name, visit))) complete = false;
    };
    for (const hosts of [this.hosts4, this.hosts6]) {
      for (const [shard, table] of hosts.shards.entries()) {
        const key = new Uint32Array(table.keyWords);
        await read(hostMap(hosts.family, shard), (element) => {
          for (let i = 0; i < key.length; i++) key[i] = element.key.readUInt32BE(i * 4);
          table.set(table.insert(key), 0, element.value);
        });
      }
    }
    if (this.balances) await readServices(this.services, read);
    for (const [name, { shape, held }] of this.sets) {
      if (shape.kind !== 'interval') {
        await read(name, (element) => held.set(element.key.toString('latin1'), element.value));
        continue;
      }
      const words = name === 'cidr4' ? 1 : 4;
      const ranges = await readRanges(socket, name, words);
      if (ranges === undefined) complete = false;
      else for (const [key, value] of rangeElements(ranges, words)) held.set(key, value);
    }
    for (const classes of [this.classes.in, this.classes.out]) {
      for (const name of ROW_MAPS) {
        await read(`${name}_${classes.side}`, ({ key, keyEnd, value }) => {
          classes.holdRow(readClass(name, key), rowOfKernel(name, key, keyEnd), value);
        });
      }
      for (const [name, from] of [
        ['class', 'identities'],
        ['others', 'others'],
      ] as const) {
        await read(`${name}_${classes.side}`, ({ key, value }) => classes.holdWay(from, key.toString('latin1'), value));
      }
    }
    return complete;
  }
}

/** @returns false when there is no such set */
export async function dumpIfThere(
  socket: NetlinkSocket,
  name: string,
  visit: (element: KernelElement) => void,
): Promise<boolean> {
  try {
    await dumpElements(socket, name, visit);
    return true;
  } catch (error) {
    if (error instanceof NetlinkError && error.errnoName === 'ENOENT') return false;
    throw error;
  }
}

/** The ranges of an interval map in order, or undefined when there is no such map. */
export async function readRanges(
  socket: NetlinkSocket,
  name: string,
  words: 1 | 4,
): Promise<AddressRange[] | undefined> {
  const points: { at: bigint; end: boolean; value: number }[] = [];
  const there = await dumpIfThere(socket, name, ({ key, intervalEnd, value }) => {
    points.push({ at: BigInt(`0x${key.toString('hex')}`), end: intervalEnd, value });
  });
  return there ? rangesOfPoints(points, words) : undefined;
}
