import type { FrontendKey, ServiceFrontend, ServiceMap } from '../../service/result.ts';
import type { HeldFrontend, HeldServices } from './held.ts';
import { type FrontendBytes, frontendBytes, readFrontend, targetBytes } from './keys.ts';
import { choiceOf, MAX_RENDEZVOUS, sizeFor, stickySizeFor } from './sizes.ts';
import { assignSlots, stickySlots } from './slots.ts';

/** Frontends between two looks at the event loop. */
const TURN = 256;

/** The maps of one technology. What is put takes the place of what was there (`before`), without a moment in between. */
export interface ServiceElements {
  /** Undefined: nothing leads on from there any more. */
  choice(at: FrontendAt, choice: number | undefined, before: number | undefined): void;
  slot(at: FrontendAt & { readonly slot: number }, target: string | undefined, before: string | undefined): void;
  /** Others get their turn; what waits may go to the kernel. */
  turn(): Promise<void>;
  /** From here on the kernel has all that was written. */
  flush(): Promise<void>;
}

export interface FrontendAt {
  readonly family: 4 | 6;
  readonly bytes: FrontendBytes;
}

export interface ServiceWriting {
  /** Undefined: no service is balanced. */
  readonly desired: ServiceMap | undefined;
  /** Where to look; undefined for everywhere. */
  readonly changed: Iterable<FrontendKey> | undefined;
  readonly elements: ServiceElements;
}

/** A frontend with a protocol whose connections have no end of their own, and targets that it had until now. */
export interface Moved {
  readonly family: 4 | 6;
  readonly frontend: FrontendBytes;
}

/**
 * Brings the services in the kernel from what is held to what is desired. A packet on its way finds the old or the new:
 * slots are there before a frontend counts on them, and go in a transaction of their own when none does any more.
 */
export class ServiceWriter {
  readonly #held: HeldServices;

  constructor(held: HeldServices) {
    this.#held = held;
  }

  /** @returns frontends that lead elsewhere now */
  async write(writing: ServiceWriting): Promise<Moved[]> {
    const { elements } = writing;
    const moved: Moved[] = [];
    const unused: (() => void)[] = [];
    const lead: (() => void)[] = [];
    let count = 0;
    for (const { family, bytes, frontend } of this.#wanted(writing)) {
      const held = this.#held.at(family, bytes);
      if (this.#writeSlots({ family, bytes, frontend, held }, elements, unused))
        moved.push({ family, frontend: bytes });
      lead.push(() => this.#writeChoice({ family, bytes, frontend, held }, elements));
      if (++count % TURN === 0) await elements.turn();
    }
    for (const steps of [lead, unused]) {
      for (const [index, step] of steps.entries()) {
        step();
        if (index % TURN === TURN - 1) await elements.turn();
      }
      await elements.flush();
    }
    return moved;
  }

  *#wanted({ desired, changed }: ServiceWriting): Iterable<Wanted> {
    const seen = { 4: new Set<FrontendBytes>(), 6: new Set<FrontendBytes>() };
    for (const key of changed ?? desired?.keys() ?? []) {
      const at = frontendBytes(key);
      if (at === undefined) continue;
      if (changed === undefined) seen[at.family].add(at.bytes);
      yield { ...at, frontend: desired?.get(key) };
    }
    if (changed !== undefined) return;
    for (const family of [4, 6] as const)
      for (const bytes of [...this.#held.frontends[family].keys()])
        if (!seen[family].has(bytes)) yield { family, bytes, frontend: undefined };
  }

  /** @returns whether a target is there that was not, or not there any more */
  #writeSlots(at: At, elements: ServiceElements, unused: (() => void)[]): boolean {
    const { family, bytes, frontend, held } = at;
    const wanted = frontend === undefined ? [] : slotsOf(frontend, held.slots);
    let moved = false;
    for (const [slot, endpoint] of wanted.entries()) {
      const before = held.slots[slot];
      if (before === endpoint) continue;
      moved = true;
      elements.slot({ family, bytes, slot }, endpoint, before);
      held.slots[slot] = endpoint;
    }
    if (held.slots.length > wanted.length) {
      moved = true;
      unused.push(() => {
        for (let slot = wanted.length; slot < held.slots.length; slot++)
          if (held.slots[slot] !== undefined) elements.slot({ family, bytes, slot }, undefined, held.slots[slot]);
        held.slots.length = wanted.length;
        if (frontend === undefined) this.#held.frontends[family].delete(bytes);
      });
    } else if (frontend === undefined) unused.push(() => void this.#held.frontends[family].delete(bytes));
    return moved;
  }

  #writeChoice({ family, bytes, frontend, held }: At, elements: ServiceElements): void {
    const wanted =
      frontend === undefined ? undefined : choiceOf(sizeOf(frontend), frontend.sticky && frontend.targets.length > 0);
    if (held.choice === wanted) return;
    elements.choice({ family, bytes }, wanted, held.choice);
    held.choice = wanted;
  }
}

interface Wanted extends FrontendAt {
  readonly frontend: ServiceFrontend | undefined;
}

interface At extends Wanted {
  readonly held: HeldFrontend;
}

/** The sum of the weights, without their common divisor. */
function sharesOf({ targets }: ServiceFrontend): number {
  let [sum, divisor] = [0, 0];
  for (const { weight } of targets) {
    sum += weight;
    divisor = commonDivisor(divisor, weight);
  }
  return sum / divisor;
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

function sizeOf(frontend: ServiceFrontend): number {
  const { targets, sticky } = frontend;
  if (targets.length === 0) return 0;
  return sticky ? stickySizeFor(targets.length) : sizeFor(sharesOf(frontend));
}

function slotsOf(frontend: ServiceFrontend, held: readonly (string | undefined)[]): string[] {
  const { targets, sticky } = frontend;
  if (targets.length === 0) return [];
  const shares = targets.map((target) => ({ endpoint: targetBytes(target), weight: target.weight }));
  if (sticky && targets.length <= MAX_RENDEZVOUS) return stickySlots(sizeOf(frontend), shares);
  return assignSlots(sizeOf(frontend), shares, held);
}

/** UDP has no end of its own: its flows must be told (`stale.ts`). */
export function isUdp({ family, frontend }: Moved): boolean {
  return readFrontend(family, frontend).protocol === 17;
}
