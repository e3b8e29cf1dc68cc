import { setImmediate as nextTurn } from 'node:timers/promises';
import { type HeldServices, MAX_SLOTS } from '../lb/held.ts';
import type { FrontendBytes } from '../lb/keys.ts';
import type { FrontendAt, ServiceElements } from '../lb/writer.ts';
import type { Generation } from './generation.ts';

// `struct choice` and the number behind the frontend in `struct slot*` of native/bpf/sockets.bpf.c.
const CHOICE = { bytes: 16, how: 0, connections: 8 } as const;
const NUMBER_BYTES = 4;

/** The number of slots and how one is chosen (`lb/sizes.ts`), of an element of `services*`. */
export const choiceOf = (value: Buffer): number => value.readUInt32LE(CHOICE.how);

/** An element whose count of connections begins anew. */
export function choiceValue(choice: number): Buffer {
  const value = Buffer.alloc(CHOICE.bytes);
  value.writeUInt32LE(choice, CHOICE.how);
  return value;
}

export function slotKey(frontend: FrontendBytes, slot: number): Buffer {
  const key = Buffer.alloc(frontend.length + NUMBER_BYTES);
  key.write(frontend, 'latin1');
  key.writeUInt32LE(slot, frontend.length);
  return key;
}

export function slotAt(key: Buffer): { readonly bytes: FrontendBytes; readonly slot: number } {
  const width = key.length - NUMBER_BYTES;
  return { bytes: key.toString('latin1', 0, width), slot: key.readUInt32LE(width) };
}

/** The services in the maps of a generation. Each element is replaced by one call, and there for whoever connects next. */
export class SocketElements implements ServiceElements {
  readonly #generation: Generation;
  added = 0;
  removed = 0;

  constructor(generation: Generation) {
    this.#generation = generation;
  }

  choice({ family, bytes }: FrontendAt, choice: number | undefined, before: number | undefined): void {
    const map = this.#generation.map(`services${family}`);
    const key = Buffer.from(bytes, 'latin1');
    this.#count(choice, before);
    if (choice === undefined) {
      map.delete(key);
      return;
    }
    map.put(key, choiceValue(choice));
  }

  slot(at: FrontendAt & { readonly slot: number }, target: string | undefined, before: string | undefined): void {
    const { family, bytes, slot } = at;
    this.#count(target, before);
    const map = this.#generation.map(`slots${family}`);
    const key = slotKey(bytes, slot);
    if (target === undefined) map.delete(key);
    else map.put(key, Buffer.from(target, 'latin1'));
  }

  #count(now: number | string | undefined, before: number | string | undefined): void {
    if (now !== undefined) this.added++;
    if (before !== undefined) this.removed++;
  }

  async turn(): Promise<void> {
    await nextTurn();
  }

  async flush(): Promise<void> {}
}

/** Takes what the maps hold. */
export function readElements(generation: Generation, held: HeldServices): void {
  held.clear();
  for (const family of [4, 6] as const) {
    for (const { key, value } of generation.map(`services${family}`).entries()) {
      const frontend = held.at(family, key.toString('latin1'));
      frontend.choice = choiceOf(value);
      frontend.connections = Number(value.readBigUInt64LE(CHOICE.connections));
    }
    for (const { key, value } of generation.map(`slots${family}`).entries()) {
      const { bytes, slot } = slotAt(key);
      // More than there can be was not written by us.
      if (slot < MAX_SLOTS) held.at(family, bytes).slots[slot] = value.toString('latin1');
    }
  }
}
