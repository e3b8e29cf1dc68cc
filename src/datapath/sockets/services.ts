import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { fingerprint } from '../../core/fingerprint.ts';
import { BpfError } from '../../host/bpf/command.ts';
import { readBpfObject } from '../../host/bpf/object.ts';
import { networkNamespaceCookie } from '../../host/bpf/place.ts';
import { machineId } from '../../host/machine-id.ts';
import type { FrontendKey, ServiceMap } from '../../service/result.ts';
import { HeldServices } from '../lb/held.ts';
import { type Moved, ServiceWriter } from '../lb/writer.ts';
import { makePinFolder, pinFolder, pinsIn, removeEmptyFolders, removePart, removePins } from '../pins.ts';
import { readElements, SocketElements } from './elements.ts';
import { SocketFlows } from './flows.ts';
import { type Capacity, Generation, type GenerationPlace } from './generation.ts';
import { Links } from './links.ts';
import { Patrol } from './patrol.ts';

/** Room for most; a map takes 16 bytes for each element that it could have, and more only for those that it has. */
const CAPACITY: Capacity = { frontends: 16_384, slots: 131_072 };
const GROWTH = 4;
/** A machine with more is told so by the error. */
const LARGEST: Capacity = { frontends: 1 << 20, slots: 1 << 24 };

/** Where everything is, in the folder of the network namespace. */
const FOLDER = 'sockets';
/** The folder of the links, among those of the generations. */
const LINKS = 'links';

// `struct config` of native/bpf/sockets.bpf.c.
const CONFIG = { bytes: 16, namespace: 0, client: 8 } as const;

/**
 * The services in the maps of the programs that lead connections at the socket (native/bpf/sockets.bpf.c), and these programs
 * at the root cgroup. Everything is pinned: it goes on when we stop, and the next process finds it by its pins.
 */
export class SocketServices {
  readonly held = new HeldServices();
  readonly #folder: string;
  readonly #place: GenerationPlace;
  readonly #links: Links;
  readonly #writer = new ServiceWriter(this.held);
  readonly #flows: SocketFlows;
  readonly #patrol = new Patrol(this.held);
  #generation: Generation | undefined;
  /** The programs of `#generation` are attached. */
  #leads = false;
  /** Nothing is pinned that is not of `#generation`, since `#lead` went through. */
  #alone = false;
  /** What the maps hold is not known: the last change failed. */
  #stale = false;

  private constructor(folder: string, onError: (message: string) => void) {
    this.#folder = folder;
    this.#place = { folder, object: readBpfObject('sockets'), config: configBytes() };
    this.#links = new Links(`${folder}/${LINKS}`);
    this.#flows = new SocketFlows({ held: this.held, generation: () => this.#generation, onError });
  }

  /**
   * Finds what an earlier run left; changes nothing.
   * @throws MeshError when this machine cannot do it: no BPF file system, Linux before 5.14, no rights
   */
  static open(options: { fileSystem?: string; onError: (message: string) => void }): SocketServices {
    const folder = `${pinFolder(options.fileSystem)}/${FOLDER}`;
    const opened = new SocketServices(folder, options.onError);
    try {
      opened.#find();
      if (opened.#generation !== undefined) readElements(opened.#generation, opened.held);
      return opened;
    } catch (error) {
      void opened.close();
      throw error;
    }
  }

  /** Takes away what an earlier run left, where it cannot be opened. */
  static discard(fileSystem?: string): void {
    removePart(FOLDER, fileSystem);
  }

  /** The generation that leads. A process that was killed may have left others beside it: one of those when none does. */
  #find(): void {
    for (const name of pinsIn(this.#folder)) {
      const found = Generation.open(this.#place, name);
      if (found === undefined) continue;
      this.#generation?.close();
      this.#generation = found;
      this.#leads = this.#links.missing(found) === undefined;
      if (this.#leads) return;
    }
  }

  /** Connections are led by what the maps hold. */
  get leads(): boolean {
    return this.#leads;
  }

  /** Anything of ours is pinned, of whichever version. */
  get present(): boolean {
    return pinsIn(this.#folder).length > 0;
  }

  /** Why connections are not led as they should be, which the next `apply` mends; undefined when they are, or need not. */
  get broken(): string | undefined {
    if (!this.#leads || this.#generation === undefined) return undefined;
    const missing = this.#links.missing(this.#generation);
    if (missing !== undefined) this.#leads = false;
    return missing;
  }

  /**
   * Puts right what others have changed in the maps; a part of them each time. Not while a change is applied. @returns how much
   * was wrong. @throws BpfError
   */
  patrol(): number {
    return this.#leads && !this.#stale && this.#generation !== undefined ? this.#patrol.step(this.#generation) : 0;
  }

  /**
   * Brings the maps to `services`, and the programs to the sockets. `changed`: where to look; undefined for everywhere.
   * @throws MeshError; what is led then is not known until it has worked again
   */
  async apply(services: ServiceMap, changed: Iterable<FrontendKey> | undefined): Promise<Written> {
    try {
      const { target, moved, ...written } = await this.#write(services, changed);
      // Links are looked after by whoever asks for `broken`: not at every change.
      if (target !== this.#generation || !this.#leads || !this.#alone) await this.#lead(target);
      this.#stale = false;
      this.#flows.changed(moved);
      return written;
    } catch (error) {
      this.#stale = true;
      throw error;
    }
  }

  async #write(
    services: ServiceMap,
    asked: Iterable<FrontendKey> | undefined,
  ): Promise<Written & { target: Generation; moved: readonly Moved[] }> {
    let target = this.#generation ?? this.#make(roomFor(services.size));
    if (this.#stale && target === this.#generation) readElements(target, this.held);
    let changed = this.#stale || !this.#leads || target !== this.#generation ? undefined : asked;
    const written = { added: 0, removed: 0 };
    for (;;) {
      const elements = new SocketElements(target);
      try {
        const moved = await this.#writer.write({ desired: services, changed, elements });
        written.added += elements.added;
        written.removed += elements.removed;
        return { ...written, target, moved };
      } catch (error) {
        const { capacity } = target;
        // The one that is too small goes on leading until a larger one is filled.
        if (target !== this.#generation) this.#discard(target);
        if (!isFull(error) || capacity.slots >= LARGEST.slots) throw error;
        target = this.#make({ frontends: capacity.frontends * GROWTH, slots: capacity.slots * GROWTH });
        changed = undefined;
      }
    }
  }

  #make(capacity: Capacity): Generation {
    makePinFolder(this.#folder);
    const made = Generation.make(this.#place, capacity);
    this.held.clear();
    return made;
  }

  /** The programs of `target` are in force from here on; nothing is left of others. */
  async #lead(target: Generation): Promise<void> {
    const others = pinsIn(this.#folder).filter((name) => name !== LINKS && name !== target.name);
    for (const name of others) await target.takeFlows(`${this.#folder}/${name}`);
    this.#links.lead(target);
    this.#leads = true;
    if (this.#generation !== target) this.#generation?.close();
    this.#generation = target;
    // What came while they were copied.
    for (const name of others) await target.takeFlows(`${this.#folder}/${name}`);
    for (const name of others) removePins(`${this.#folder}/${name}`);
    this.#alone = true;
  }

  #discard(generation: Generation): void {
    generation.close();
    removePins(`${this.#folder}/${generation.name}`);
  }

  /** What the maps hold now, read from the kernel. */
  dump(): HeldServices {
    const held = new HeldServices();
    if (this.#generation !== undefined && this.#leads) readElements(this.#generation, held);
    return held;
  }

  /** Takes programs and maps away, whichever version they are of. */
  remove(): void {
    this.#links.remove();
    this.#generation?.close();
    this.#generation = undefined;
    this.#leads = false;
    this.held.clear();
    removePins(this.#folder);
    removeEmptyFolders(dirname(this.#folder));
  }

  /** Leaves the kernel as it is. */
  async close(): Promise<void> {
    await this.#flows.close();
    this.#links.close();
    this.#generation?.close();
    this.#generation = undefined;
  }
}

interface Written {
  readonly added: number;
  readonly removed: number;
}

const isFull = (error: unknown): boolean => error instanceof BpfError && error.errnoName === 'E2BIG';

function roomFor(frontends: number): Capacity {
  let { frontends: room } = CAPACITY;
  while (room < frontends * 2 && room < LARGEST.frontends) room *= GROWTH;
  return { ...CAPACITY, frontends: room };
}

function configBytes(): Buffer {
  const config = Buffer.alloc(CONFIG.bytes);
  config.writeBigUInt64LE(networkNamespaceCookie(), CONFIG.namespace);
  config.writeUInt32LE(clientNumber(), CONFIG.client);
  return config;
}

/** The same after every start, another on every machine: spreads machines over the targets that clients stay with. */
function clientNumber(): number {
  return fingerprint(machineId() || hostname());
}
