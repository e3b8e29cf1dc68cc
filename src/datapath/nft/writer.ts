import { setImmediate as nextTurn } from 'node:timers/promises';
import { parseIpv6 } from '../../core/ip.ts';
import type { Border, DesiredChanges, DesiredState } from '../desired.ts';
import type { HostWriter } from './addresses.ts';
import type { ClassChange } from './classes.ts';
import type { ElementBatch } from './elements.ts';
import type { HeldState } from './held.ts';
import { borderElements, type FlatPrefixes, flatPrefixes, rangeElements, worldOf } from './keys.ts';
import { findRange, toBigint } from './ranges.ts';
import type { Elements, SetTracker } from './tracker.ts';
import type { TableWatch } from './watch.ts';

/** Above this a change set goes in ordered parts, each correct by itself: the kernel takes each while we wait for it. */
const PART_BYTES = 512 << 10;

export interface Writing {
  readonly desired: DesiredState;
  readonly changes: DesiredChanges;
  readonly batch: ElementBatch;
  readonly watch: TableWatch;
  /** Rules in the kernel read these maps: what belongs together must be seen together. */
  readonly inForce: boolean;
  /** Puts the rules in force; runs between policy and addresses. */
  readonly close: (() => Promise<void>) | undefined;
}

/**
 * Brings the elements of all maps from what is held to what is desired. Policy and border first, addresses behind, and last
 * what is out of use: an address never leads to an identity, or an identity to a class, that is not there yet.
 *
 * At the end of a commit there is a moment in which the maps of prefixes are still the old ones and all others are new. What
 * is seen then must be right too: an address that only a prefix will know stays a single address, with the identity that it
 * will have, and an identity of no class of its own any more keeps it, until a transaction behind.
 */
export class ElementWriter {
  readonly #held: HeldState;
  #audit: boolean | undefined;
  prefixes: FlatPrefixes = { v4: [], v6: [] };

  constructor(held: HeldState) {
    this.#held = held;
  }

  async write(writing: Writing): Promise<void> {
    const { desired, changes, batch, watch, close, inForce } = writing;
    const everything = changes.everything === true || this.#audit !== desired.border.audit;
    this.#audit = desired.border.audit;
    const classes = this.#writePolicy(writing, everything);
    await send(batch, watch);
    for (const change of classes) change.switch();
    await this.#turn(writing);
    if (everything || changes.border === true || changes.overlay === true) {
      for (const [name, elements] of borderElements(desired)) this.#held.sets.get(name)?.become(elements, batch);
    }
    const prefixes = everything || changes.prefixes === true ? await this.#prefixSets(writing) : [];
    const late = inForce && prefixes.length > 0;
    if (!late) for (const change of classes) change.turn();
    if (close !== undefined) {
      await send(batch, watch);
      await close();
    }
    const pause = async (): Promise<void> => {
      if (batch.size > PART_BYTES) await send(batch, watch);
    };
    await this.#writeAddresses(writing, { pause, late });
    for (const { set, elements } of prefixes) {
      set.become(elements, batch);
      await this.#turn(writing);
    }
    await send(batch, watch);
    if (late) {
      for (const change of classes) change.turn();
      await this.#held.hosts4.leave(desired.addresses.hosts4, { batch, pause });
      await this.#held.hosts6.leave(desired.addresses.hosts6, { batch, pause });
      await send(batch, watch);
    }
    // A packet may have been on its way to what is out of use now, so this is a transaction of its own.
    for (const change of classes) change.leave();
    await send(batch, watch);
  }

  /** Lets others have their turn; sends what there is only while no rule leads to it. */
  async #turn({ batch, watch, inForce }: Writing): Promise<void> {
    if (!inForce && batch.size > PART_BYTES) await send(batch, watch);
    await nextTurn();
  }

  /** The maps of prefixes that are to change. */
  async #prefixSets(writing: Writing): Promise<{ set: SetTracker; elements: Elements }[]> {
    this.prefixes = flatPrefixes(writing.desired.addresses.prefixes());
    await this.#turn(writing);
    const changing: { set: SetTracker; elements: Elements }[] = [];
    for (const [name, ranges, words] of [
      ['cidr4', this.prefixes.v4, 1],
      ['cidr6', this.prefixes.v6, 4],
    ] as const) {
      const elements = rangeElements(ranges, words);
      const set = this.#held.sets.get(name);
      if (set !== undefined && !set.holds(elements)) changing.push({ set, elements });
      await this.#turn(writing);
    }
    return changing;
  }

  #writePolicy({ desired, changes, batch }: Writing, everything: boolean): ClassChange[] {
    const classes: ClassChange[] = [];
    for (const [side, direction] of [
      ['in', 'ingress'],
      ['out', 'egress'],
    ] as const) {
      const changed = everything ? undefined : changes[direction];
      if (!everything && changed === undefined) continue;
      const options = { changes: changed, audit: desired.border.audit };
      classes.push(this.#held.classes[side].become(desired[direction], options, batch));
    }
    return classes;
  }

  async #writeAddresses({ desired, changes, batch }: Writing, how: Pick<HostWriter, 'pause'> & { late: boolean }) {
    const { hosts4, hosts6 } = desired.addresses;
    const writerOf = (family: 4 | 6): HostWriter => ({
      batch,
      pause: how.pause,
      ...(how.late && { behind: (key) => this.#markBehind(desired.border, family, key) }),
    });
    const [writer4, writer6] = [writerOf(4), writerOf(6)];
    if (changes.everything === true) {
      await this.#held.hosts4.become(hosts4, writer4);
      await this.#held.hosts6.become(hosts6, writer6);
      return;
    }
    await this.#held.hosts4.putSome(
      [...(changes.hosts4 ?? [])].map((word) => [word >>> 0]),
      hosts4,
      writer4,
    );
    const keys = [...(changes.hosts6 ?? [])].map(parseIpv6).filter((key) => key !== undefined);
    await this.#held.hosts6.putSome(keys, hosts6, writer6);
  }

  #markBehind({ dualStack }: Border, family: 4 | 6, key: ArrayLike<number>): number {
    const range = findRange(family === 4 ? this.prefixes.v4 : this.prefixes.v6, toBigint(key));
    return range?.value ?? worldOf(family, dualStack);
  }
}

/** Sends what was written as one transaction; a large one unheard by the watch. */
export async function send(batch: ElementBatch, watch: TableWatch): Promise<void> {
  if (batch.size > PART_BYTES) await watch.deafen();
  if (await batch.send()) watch.wrote();
}
