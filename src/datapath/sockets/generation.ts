import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { closeObject, openPinned, pinObject } from '../../host/bpf/command.ts';
import { BpfMap, type MapShape } from '../../host/bpf/map.ts';
import type { BpfObject } from '../../host/bpf/object.ts';
import { loadProgram, SOCKET, SOCKET_ADDRESS } from '../../host/bpf/program.ts';
import { makePinFolder, removePins } from '../pins.ts';

/** How much the maps hold, in each family. */
export interface Capacity {
  readonly frontends: number;
  readonly slots: number;
}

/** Attach types of linux/bpf.h by the names of the programs; in the order in which they are attached: answers first. */
export const HOOKS = {
  getpeername4: 29,
  getpeername6: 30,
  recvmsg4: 19,
  recvmsg6: 20,
  connect4: 10,
  connect6: 11,
  sendmsg4: 14,
  sendmsg6: 15,
  sock_release: 34,
} as const;
export type HookName = keyof typeof HOOKS;
export const HOOK_NAMES = Object.keys(HOOKS) as HookName[];

type MapName = 'config' | 'services4' | 'services6' | 'slots4' | 'slots6' | 'flows' | 'tcp_peers' | 'udp_peers';

/** Where the generations are, and what all of one process have in common. */
export interface GenerationPlace {
  readonly folder: string;
  readonly object: BpfObject;
  /** `struct config` of native/bpf/sockets.bpf.c. */
  readonly config: Buffer;
}

/** Of the only element of `config`. */
const FIRST = Buffer.alloc(4);
const FLOW_MAPS = ['flows', 'tcp_peers', 'udp_peers'] as const;
const TURN = 1024;

/**
 * Programs and maps that belong together, pinned in one folder whose name says which programs of which capacity they are:
 * `<digest>-<frontends>-<slots>`. Where another version or more room is needed, another generation is made and filled beside
 * this one, and the links go over to it.
 */
export class Generation {
  readonly name: string;
  readonly capacity: Capacity;
  readonly #maps: ReadonlyMap<string, BpfMap>;
  readonly #programs: ReadonlyMap<string, number>;
  readonly #config: Buffer;

  private constructor(from: {
    name: string;
    capacity: Capacity;
    maps: ReadonlyMap<string, BpfMap>;
    programs: ReadonlyMap<string, number>;
    config: Buffer;
  }) {
    this.name = from.name;
    this.capacity = from.capacity;
    this.#maps = from.maps;
    this.#programs = from.programs;
    this.#config = from.config;
  }

  /** What is pinned under this name, if it is whole, of these programs, and for us. @throws BpfError */
  static open(of: GenerationPlace, name: string): Generation | undefined {
    const { object } = of;
    const [digest, frontends, slots] = name.split('-');
    const capacity = { frontends: Number(frontends), slots: Number(slots) };
    if (digest !== object.digest || name !== nameOf(object, capacity)) return undefined;
    const path = join(of.folder, name);
    const maps = new Map<string, BpfMap>();
    const programs = new Map<string, number>();
    for (const shape of object.maps) {
      const map = BpfMap.open(join(path, mapPin(shape.name)), sized(shape, capacity));
      if (map !== undefined) maps.set(shape.name, map);
    }
    for (const { name } of object.programs) {
      const fd = openPinned(join(path, programPin(name)), 'prog');
      if (fd !== undefined) programs.set(name, fd);
    }
    const made = new Generation({ name, capacity, maps, programs, config: of.config });
    const whole = maps.size === object.maps.length && programs.size === object.programs.length;
    if (whole && made.isConfigured) return made;
    made.close();
    return undefined;
  }

  /** @throws BpfError */
  static make({ folder, object, config }: GenerationPlace, capacity: Capacity): Generation {
    const name = nameOf(object, capacity);
    // Half of one must never be taken for a whole.
    const unfinished = join(folder, `${name}-new`);
    removePins(unfinished);
    removePins(join(folder, name));
    makePinFolder(unfinished);
    const maps = new Map<string, BpfMap>();
    const programs = new Map<string, number>();
    const made = new Generation({ name, capacity, maps, programs, config });
    try {
      for (const shape of object.maps) {
        const map = BpfMap.create(sized(shape, capacity));
        maps.set(shape.name, map);
        map.pin(join(unfinished, mapPin(shape.name)));
      }
      for (const program of object.programs) {
        const type = program.name === 'sock_release' ? SOCKET : SOCKET_ADDRESS;
        const kind = { type, attach: HOOKS[program.name as HookName] };
        const fd = loadProgram(program, kind, maps);
        programs.set(program.name, fd);
        pinObject(fd, join(unfinished, programPin(program.name)));
      }
      made.configure();
      renameSync(unfinished, join(folder, name));
      return made;
    } catch (error) {
      made.close();
      removePins(unfinished);
      throw error;
    }
  }

  map(name: MapName): BpfMap {
    return this.#maps.get(name) as BpfMap;
  }

  /** The programs know whose sockets they are for. */
  get isConfigured(): boolean {
    return this.map('config').get(FIRST)?.equals(this.#config) === true;
  }

  configure(): void {
    this.map('config').put(FIRST, this.#config);
  }

  program(name: HookName): number {
    return this.#programs.get(name) as number;
  }

  /**
   * Takes over what sockets were led to by the generation that is pinned at `path`, unless it keeps that in another form.
   * What is known here already stays.
   */
  async takeFlows(path: string): Promise<void> {
    for (const name of FLOW_MAPS) {
      const map = this.map(name);
      const other = BpfMap.open(join(path, mapPin(name)), map.shape);
      if (other === undefined) continue;
      let count = 0;
      try {
        for (const { key, value } of other.entries()) {
          map.putNew(key, value);
          if (++count % TURN === 0) await nextTurn();
        }
      } finally {
        other.close();
      }
    }
  }

  close(): void {
    for (const map of this.#maps.values()) map.close();
    for (const fd of this.#programs.values()) closeObject(fd);
  }
}

function nameOf({ digest }: BpfObject, { frontends, slots }: Capacity): string {
  return `${digest}-${frontends}-${slots}`;
}

// No dots: the BPF file system keeps such names for itself.
const mapPin = (name: string): string => `map_${name}`;
const programPin = (name: string): string => `program_${name}`;

function sized(shape: MapShape, { frontends, slots }: Capacity): MapShape {
  if (/^services[46]$/.test(shape.name)) return { ...shape, entries: frontends };
  if (/^slots[46]$/.test(shape.name)) return { ...shape, entries: slots };
  return shape;
}
