import { setImmediate as nextTurn } from 'node:timers/promises';
import type { BpfMap } from '../../host/bpf/map.ts';
import { ClassTracker } from './classes.ts';
import type { Generation } from './generation.ts';
import { HostTracker } from './hosts.ts';
import {
  CONFIGS,
  keyWords,
  type PolicyConfig,
  readConfig,
  readPrefix,
  readVersioned,
  SIDES,
  type Side,
  VERSIONED_BYTES,
  type Versioned,
  writeVersioned,
} from './layout.ts';
import type { Nested } from './nested.ts';
import { PrefixTracker } from './prefixes.ts';
import { cellOfRange, cellOfRow } from './row-cells.ts';

const TURN = 4096;
const ZERO = Buffer.alloc(4);
const FAMILIES = [4, 6] as const;

/** What the kernel holds, as far as it is in force. */
export class HeldState {
  readonly hosts = { 4: new HostTracker(4), 6: new HostTracker(6) } as const;
  readonly prefixes = { 4: new PrefixTracker(4), 6: new PrefixTracker(6) } as const;
  readonly classes = { in: new ClassTracker('in'), out: new ClassTracker('out') } as const;
  passes = new Map<string, number>();
  config: PolicyConfig | undefined;
  /** 0: nothing was ever in force. */
  revision = 0n;

  clear(): void {
    for (const family of FAMILIES) {
      this.hosts[family].held.clear();
      this.prefixes[family].held = new Map();
    }
    for (const side of SIDES) this.classes[side].clear();
    this.passes.clear();
    this.config = undefined;
    this.revision = 0n;
  }

  /** Reads it anew, and takes back what was written for a revision that never came. */
  async read(generation: Generation): Promise<void> {
    this.clear();
    this.revision = readRevision(generation);
    this.config = readConfigOf(generation, this.revision);
    for (const side of SIDES) this.classes[side].others = this.config?.others[SIDES.indexOf(side)] ?? 0;
    const read = (name: string, visit: (key: Buffer, value: number, rest: Buffer) => void): Promise<void> =>
      readMap(generation.map(name), this.revision, visit);
    for (const family of FAMILIES) {
      await read(`hosts${family}`, (key, identity) =>
        this.hosts[family].hold(keyWords(key, 0, family === 4 ? 1 : 4), identity),
      );
      const prefixes = new Map<string, Nested>();
      await read(`prefixes${family}`, (bytes, value) => {
        const key = bytes.toString('latin1');
        prefixes.set(key, { key, bits: readPrefix(bytes).bits, value });
      });
      this.prefixes[family].held = prefixes;
    }
    await read('classes', (key, number) => this.classes[sideOf(key[4])].holdIdentity(key.readUInt32LE(0), number));
    await read('rows', (key, code) => this.classes[sideOf(key[7])].holdRow(key.readUInt32LE(0), cellOfRow(key, code)));
    await read('ranges', (key, code, value) =>
      this.classes[sideOf(key[8])].holdRow(key.readUInt32BE(4), cellOfRange(key, code, value)),
    );
    await read('passes', (key) => void this.passes.set(key.toString('latin1'), 1));
  }
}

function sideOf(byte = 0): Side {
  return (byte & 1) === 0 ? 'in' : 'out';
}

export function readRevision(generation: Generation): bigint {
  return generation.map('current').get(ZERO)?.readBigUInt64LE(0) ?? 0n;
}

/** The place of the configuration of a revision. */
function configSlot(revision: bigint): Buffer {
  const slot = Buffer.alloc(4);
  slot.writeUInt32LE(Number(revision % BigInt(CONFIGS)));
  return slot;
}

function readConfigOf(generation: Generation, revision: bigint): PolicyConfig | undefined {
  const bytes = revision === 0n ? undefined : generation.map('configs').get(configSlot(revision));
  return bytes === undefined ? undefined : readConfig(bytes);
}

/** Puts a configuration and a revision in force, in this order. */
export function writeRevision(generation: Generation, revision: bigint, config: Buffer): void {
  generation.map('configs').put(configSlot(revision), config);
  const current = Buffer.alloc(8);
  current.writeBigUInt64LE(revision);
  generation.map('current').put(ZERO, current);
}

async function readMap(
  map: BpfMap,
  revision: bigint,
  visit: (key: Buffer, value: number, rest: Buffer) => void,
): Promise<void> {
  const early: { key: Buffer; value: Buffer; versioned: Versioned }[] = [];
  const dead: Buffer[] = [];
  let count = 0;
  for (const { key, value } of map.entries()) {
    if (++count % TURN === 0) await nextTurn();
    const versioned = readVersioned(value);
    const now = versioned.since > revision ? versioned.before : versioned.after;
    if (now === 0) dead.push(Buffer.from(key));
    else {
      visit(key, now, value);
      if (versioned.since > revision) early.push({ key: Buffer.from(key), value: Buffer.from(value), versioned });
    }
  }
  for (const { key, value, versioned } of early) {
    writeVersioned(value, 0, { before: versioned.before, after: versioned.before, since: 0n });
    map.put(key, value.subarray(0, Math.max(VERSIONED_BYTES, map.shape.valueBytes)));
  }
  if (dead.length > 0) map.deleteAll(Buffer.concat(dead));
}
