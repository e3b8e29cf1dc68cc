import { totalmem } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { closeObject, openPinned, pinObject } from '../../host/bpf/command.ts';
import { BpfMap, type MapShape } from '../../host/bpf/map.ts';
import type { BpfObject } from '../../host/bpf/object.ts';
import { CLASSIFIER, loadProgram, programId } from '../../host/bpf/program.ts';
import { makePinFolder, removePins } from '../pins.ts';
import type { BpfFolder } from './folder.ts';

const PROGRAMS = ['enter', 'leave', 'enter_overlay', 'leave_overlay'] as const;
export type ProgramName = (typeof PROGRAMS)[number];

/** Maps that are the same whatever the policy is: another generation goes on with them. */
const LASTING = ['connections4', 'connections6', 'opening4', 'opening6', 'fragments', 'counters'] as const;

const MANY = 1 << 20;
/** Tables of hashes cost 16 bytes for each of these at once; tries cost nothing. Those that are too small are made anew. */
const FIRST_ENTRIES: Readonly<Record<string, number>> = {
  hosts4: 131_072,
  hosts6: 65_536,
  classes: 65_536,
  rows: 65_536,
  passes: 16_384,
  prefixes4: MANY,
  prefixes6: MANY,
  ranges: MANY,
};
/** Their size in the object is only what they begin with. */
const GROWING: ReadonlySet<string> = new Set(Object.keys(FIRST_ENTRIES));
const MAX_ENTRIES = 1 << 26;

/**
 * Connections that are remembered, for each family: memory is set aside at once, about 120 bytes for each, 0.2 % of the
 * machine's. Those that nobody has answered, or that are younger than a moment, have a table a quarter of that.
 */
function connectionEntries(): number {
  const byMemory = 2 ** Math.floor(Math.log2(totalmem() / 131_072));
  return Math.min(524_288, Math.max(16_384, byMemory));
}

function entriesOf(shape: MapShape): number {
  if (shape.entries > 0) return shape.entries;
  if (shape.name.startsWith('connections')) return connectionEntries();
  if (shape.name.startsWith('opening')) return connectionEntries() / 4;
  return FIRST_ENTRIES[shape.name] ?? MANY;
}

/**
 * One set of maps and the programs that use them. What is made is nowhere but in our hands until it is pinned; a folder of
 * its own keeps it then. A map that has become too small makes another generation, which shares all other maps.
 */
export class Generation {
  readonly number: number;
  readonly object: BpfObject;
  readonly #folder: BpfFolder;
  readonly #maps: Map<string, BpfMap>;
  readonly #programs = new Map<ProgramName, number>();
  #pinned: boolean;

  private constructor(of: {
    number: number;
    object: BpfObject;
    folder: BpfFolder;
    maps: Map<string, BpfMap>;
    pinned: boolean;
  }) {
    this.number = of.number;
    this.object = of.object;
    this.#folder = of.folder;
    this.#maps = of.maps;
    this.#pinned = of.pinned;
  }

  /** Takes over what lasts from `old`. @throws BpfError */
  static create(of: { number: number; object: BpfObject; folder: BpfFolder; old: readonly string[] }): Generation {
    const maps = new Map<string, BpfMap>();
    try {
      for (const shape of of.object.maps) {
        const lasting = (LASTING as readonly string[]).includes(shape.name);
        maps.set(
          shape.name,
          (lasting ? openFirst(of.old, shape) : undefined) ?? BpfMap.create({ ...shape, entries: entriesOf(shape) }),
        );
      }
      return new Generation({ ...of, maps, pinned: false });
    } catch (error) {
      for (const map of maps.values()) map.close();
      throw error;
    }
  }

  /** @returns the generation that is kept there, or undefined when a part of it is missing. @throws BpfError */
  static open(of: { number: number; object: BpfObject; folder: BpfFolder }): Generation | undefined {
    const path = of.folder.generation(of.object.digest, of.number);
    const maps = new Map<string, BpfMap>();
    for (const shape of of.object.maps) {
      const map = BpfMap.open(join(path, shape.name), GROWING.has(shape.name) ? { ...shape, entries: 0 } : shape);
      if (map === undefined) break;
      maps.set(shape.name, map);
    }
    const generation = new Generation({ ...of, maps, pinned: true });
    for (const name of PROGRAMS) {
      const program = openPinned(join(path, name), 'prog');
      if (program !== undefined) generation.#programs.set(name, program);
    }
    if (maps.size === of.object.maps.length) return generation;
    generation.close();
    return undefined;
  }

  get path(): string {
    return this.#folder.generation(this.object.digest, this.number);
  }

  get pinned(): boolean {
    return this.#pinned;
  }

  map(name: string): BpfMap {
    const map = this.#maps.get(name);
    if (map === undefined) throw new Error(`there is no map ${name}`);
    return map;
  }

  /** The descriptor of a program, loaded if it is not. @throws BpfError with the verifier's log */
  async program(name: ProgramName): Promise<number> {
    const known = this.#programs.get(name);
    if (known !== undefined) return known;
    const program = this.object.programs.find((each) => each.name === name);
    if (program === undefined) throw new Error(`there is no program ${name}`);
    // The kernel takes its time to verify one, and nothing else happens meanwhile.
    await nextTurn();
    const fd = loadProgram(program, CLASSIFIER, this.#maps);
    this.#programs.set(name, fd);
    if (this.#pinned) pinObject(fd, join(this.path, name));
    return fd;
  }

  /** Numbers of the programs that are loaded. */
  programIds(): number[] {
    return [...this.#programs.values()].map(programId);
  }

  /** Whether its folder is as we left it. */
  get isKept(): boolean {
    if (!this.#pinned) return true;
    const again = Generation.open({ number: this.number, object: this.object, folder: this.#folder });
    again?.close();
    this.#pinned = again !== undefined;
    return this.#pinned;
  }

  /** Gives it a folder: it lives on without us. @returns whether it had none. @throws BpfError */
  pin(): boolean {
    if (this.#pinned) return false;
    removePins(this.path);
    makePinFolder(this.path);
    for (const [name, map] of this.#maps) map.pin(join(this.path, name));
    for (const [name, program] of this.#programs) pinObject(program, join(this.path, name));
    this.#pinned = true;
    return true;
  }

  /** The next one, in which a map has room for at least `needed` entries; not pinned. This one is of no use any more. */
  async grown(name: string, needed: number): Promise<Generation> {
    const maps = new Map(this.#maps);
    const old = this.map(name);
    const entries = Math.min(MAX_ENTRIES, 2 ** Math.ceil(Math.log2(Math.max(needed, old.shape.entries * 2))));
    if (entries <= old.shape.entries) throw new Error(`it has ${entries} entries, and cannot have more`);
    const map = BpfMap.create({ ...old.shape, entries });
    await copy(old, map);
    maps.set(name, map);
    const next = new Generation({
      number: this.number + 1,
      object: this.object,
      folder: this.#folder,
      maps,
      pinned: false,
    });
    for (const each of this.#programs.keys()) await next.program(each);
    old.close();
    for (const program of this.#programs.values()) closeObject(program);
    this.#programs.clear();
    return next;
  }

  close(): void {
    for (const map of this.#maps.values()) map.close();
    for (const program of this.#programs.values()) closeObject(program);
    this.#maps.clear();
    this.#programs.clear();
  }
}

function openFirst(folders: readonly string[], shape: MapShape): BpfMap | undefined {
  for (const folder of folders) {
    const map = BpfMap.open(join(folder, shape.name), { ...shape, entries: entriesOf(shape) });
    if (map !== undefined) return map;
  }
  return undefined;
}

async function copy(from: BpfMap, to: BpfMap): Promise<void> {
  const SOME = 4096;
  const { keyBytes, valueBytes } = from.shape;
  const [keys, values] = [Buffer.alloc(SOME * keyBytes), Buffer.alloc(SOME * valueBytes)];
  let count = 0;
  const flush = (): void => {
    if (count > 0) to.putAll(keys.subarray(0, count * keyBytes), values.subarray(0, count * valueBytes));
    count = 0;
  };
  for (const { key, value } of from.entries()) {
    key.copy(keys, count * keyBytes);
    value.copy(values, count * valueBytes);
    if (++count === SOME) {
      flush();
      await nextTurn();
    }
  }
  flush();
}
