import type { BpfMap } from '../../host/bpf/map.ts';
import type { HeldFrontend, HeldServices } from '../lb/held.ts';
import type { FrontendBytes } from '../lb/keys.ts';
import { choiceOf, choiceValue, slotAt, slotKey } from './elements.ts';
import type { Generation } from './generation.ts';

/** Elements that one step compares: 5 ms where nothing is wrong. */
const STEP = 4096;

/**
 * Compares what the maps hold with what was put there, a few elements at each step, round and round. The kernel tells nobody
 * when others write to maps: a frontend that leads elsewhere would never be noticed. What is wrong is put right at once.
 */
export class Patrol {
  readonly #held: HeldServices;
  #generation: Generation | undefined;
  #round: Iterator<boolean> | undefined;

  constructor(held: HeldServices) {
    this.#held = held;
  }

  /** Nothing else changes the maps meanwhile. @returns how many elements were wrong. @throws BpfError */
  step(generation: Generation): number {
    if (generation !== this.#generation) this.#round = undefined;
    this.#generation = generation;
    this.#round ??= this.#walk(generation);
    let wrong = generation.isConfigured ? 0 : 1;
    if (wrong > 0) generation.configure();
    for (let count = 0; count < STEP; count++) {
      const { done, value } = this.#round.next();
      if (value === true) wrong++;
      if (done !== true) continue;
      this.#round = undefined;
      break;
    }
    return wrong;
  }

  /** For each element whether it was wrong. What is there is read in batches; only what does not fit is asked for alone. */
  *#walk(generation: Generation): Generator<boolean, undefined> {
    for (const family of [4, 6] as const) {
      const [choices, slots] = [generation.map(`services${family}`), generation.map(`slots${family}`)];
      const frontends = this.#held.frontends[family];
      const right = new Map<FrontendBytes, number>();
      const count = (bytes: FrontendBytes): void => void right.set(bytes, (right.get(bytes) ?? 0) + 1);
      for (const { key, value } of choices.entries()) {
        const bytes = key.toString('latin1');
        const isRight = choiceOf(value) === frontends.get(bytes)?.choice;
        if (isRight) count(bytes);
        yield !isRight && mendChoice(choices, bytes, frontends.get(bytes));
      }
      for (const { key, value } of slots.entries()) {
        const { bytes, slot } = slotAt(key);
        const isRight = value.toString('latin1') === frontends.get(bytes)?.slots[slot];
        if (isRight) count(bytes);
        yield !isRight && mendSlot(slots, { bytes, slot }, frontends.get(bytes));
      }
      for (const [bytes, held] of frontends) {
        if (right.get(bytes) === held.slots.length + (held.choice === undefined ? 0 : 1)) {
          yield false;
          continue;
        }
        // Changed since, or something of it is gone.
        yield mendChoice(choices, bytes, frontends.get(bytes));
        for (let slot = 0; slot < held.slots.length; slot++)
          yield mendSlot(slots, { bytes, slot }, frontends.get(bytes));
      }
    }
    return undefined;
  }
}

/** @returns whether it was wrong */
function mendChoice(map: BpfMap, bytes: FrontendBytes, held: HeldFrontend | undefined): boolean {
  const key = Buffer.from(bytes, 'latin1');
  const found = map.get(key);
  const wanted = held?.choice;
  if ((found === undefined ? undefined : choiceOf(found)) === wanted) return false;
  if (wanted === undefined) map.delete(key);
  else map.put(key, choiceValue(wanted));
  return true;
}

/** @returns whether it was wrong */
function mendSlot(map: BpfMap, at: { bytes: FrontendBytes; slot: number }, held: HeldFrontend | undefined): boolean {
  const key = slotKey(at.bytes, at.slot);
  const wanted = held?.slots[at.slot];
  if (map.get(key)?.toString('latin1') === wanted) return false;
  if (wanted === undefined) map.delete(key);
  else map.put(key, Buffer.from(wanted, 'latin1'));
  return true;
}
