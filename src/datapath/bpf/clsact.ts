import { MeshError } from '../../core/errors.ts';
import { Attributes, AttributeWriter, NESTED } from '../../host/attributes.ts';
import {
  NETLINK_ROUTE,
  NetlinkSocket,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
} from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import { RTM } from '../../host/rtnetlink.ts';
import { type Attacher, type Attachment, ENDS, type End, type LoadedProgram } from './attacher.ts';

/** linux/rtnetlink.h, pkt_sched.h, pkt_cls.h. */
const MESSAGE = { newQueue: 36, deleteQueue: 37, newFilter: 44, deleteFilter: 45, getFilter: 46 } as const;
const CLSACT = { handle: 0xffff0000, parent: 0xfffffff1 } as const;
const PARENT: Readonly<Record<End, number>> = { enter: 0xfffffff2, leave: 0xfffffff3 };
const TCA = { kind: 1, options: 2 } as const;
const BPF = { fd: 6, name: 7, flags: 8, id: 11 } as const;
const DIRECT_ACTION = 1;
/** Every protocol, in network order. */
const ALL_PROTOCOLS = 0x0300;
/** Ours among the filters of one priority: "mesh". */
const HANDLE = 0x6d657368;
const NAME = 'mesh_agent';
/** Before all others, if nobody of another kind is there already. */
const PRIORITIES = [1, 2, 3, 4, 5, 6, 7, 8];

interface Filter extends Attachment {
  readonly program: number;
  readonly priority: number;
  readonly ours: boolean;
}

/** Filters of the queueing discipline `clsact`, for kernels without tcx: they need no pin to stay. */
export class ClsactAttacher implements Attacher {
  readonly name = 'clsact';
  readonly #socket = new NetlinkSocket({ family: NETLINK_ROUTE });
  /** Where ours may be; at first nobody knows. */
  #touched: Set<number> | undefined;

  async list(): Promise<(Attachment & { program: number })[]> {
    const filters = await Promise.all(
      [...(this.#touched ?? (await this.#devices()))].map((device) => this.#filters(device)),
    );
    this.#touched ??= new Set(filters.flat().flatMap(({ ours, device }) => (ours ? [device] : [])));
    return filters.flat().filter(({ ours }) => ours);
  }

  async put(to: Attachment, program: LoadedProgram): Promise<void> {
    this.#touched?.add(to.device);
    await this.#request(MESSAGE.newQueue, {
      device: to.device,
      ...CLSACT,
      flags: NLM_F_CREATE | NLM_F_EXCL,
      write: (writer) => writer.string(TCA.kind, 'clsact'),
      forgive: ['EEXIST'],
    });
    const known = (await this.#filters(to.device)).find((each) => each.ours && each.end === to.end);
    for (const priority of known === undefined ? PRIORITIES : [known.priority]) {
      if (await this.#putFilter(to, { program, priority, replace: known !== undefined })) return;
    }
    throw new MeshError('DPB-ATTACH', 'others have filters of another kind there', { place: `device ${to.device}` });
  }

  async #putFilter(
    to: Attachment,
    how: { program: LoadedProgram; priority: number; replace: boolean },
  ): Promise<boolean> {
    return this.#request(MESSAGE.newFilter, {
      device: to.device,
      handle: HANDLE,
      parent: PARENT[to.end],
      info: ((how.priority << 16) | ALL_PROTOCOLS) >>> 0,
      flags: NLM_F_CREATE | (how.replace ? NLM_F_REPLACE : NLM_F_EXCL),
      write: (writer) => {
        writer.string(TCA.kind, 'bpf');
        const options = writer.begin(TCA.options | NESTED);
        writer.u32(BPF.fd, how.program.fd);
        writer.string(BPF.name, NAME);
        writer.u32(BPF.flags, DIRECT_ACTION);
        writer.end(options);
      },
      forgive: how.replace ? [] : ['EEXIST', 'EINVAL'],
    });
  }

  async drop(from: Attachment): Promise<void> {
    const filters = await this.#filters(from.device);
    const known = filters.find((each) => each.ours && each.end === from.end);
    if (known === undefined) return;
    const gone = ['ENOENT', 'ENODEV', 'EINVAL'];
    await this.#request(MESSAGE.deleteFilter, {
      device: from.device,
      handle: HANDLE,
      parent: PARENT[from.end],
      info: ((known.priority << 16) | ALL_PROTOCOLS) >>> 0,
      write: (writer) => writer.string(TCA.kind, 'bpf'),
      forgive: gone,
    });
    // Without filters it does nothing for anybody.
    if (filters.length > 1) return;
    await this.#request(MESSAGE.deleteQueue, {
      device: from.device,
      ...CLSACT,
      write: (writer) => writer.string(TCA.kind, 'clsact'),
      forgive: gone,
    });
  }

  close(): void {
    this.#socket.close();
  }

  async #devices(): Promise<number[]> {
    const devices: number[] = [];
    await this.#socket.dump({ type: RTM.getLink, body: new Uint8Array(16), operation: 'read devices' }, ({ body }) =>
      devices.push(body.readInt32LE(4)),
    );
    return devices;
  }

  async #filters(device: number): Promise<Filter[]> {
    const found: Filter[] = [];
    for (const end of ENDS) {
      const body = header({ device, handle: 0, parent: PARENT[end] });
      try {
        await this.#socket.dump({ type: MESSAGE.getFilter, body, operation: 'read filters' }, (message) => {
          if (message.type !== MESSAGE.newFilter) return;
          const filter = filterOf(message.body, { device, end });
          if (filter !== undefined) found.push(filter);
        });
      } catch (error) {
        if (!(error instanceof NetlinkError && ['EINVAL', 'ENODEV', 'ENOENT'].includes(error.errnoName))) throw error;
      }
    }
    return found;
  }

  /** @returns false for a refusal that is forgiven */
  async #request(
    type: number,
    of: Header & { flags?: number; write: (writer: AttributeWriter) => void; forgive: readonly string[] },
  ): Promise<boolean> {
    const writer = new AttributeWriter(128);
    writer.raw(header(of));
    of.write(writer);
    const flags = NLM_F_ACK | (of.flags ?? 0);
    try {
      await this.#socket.request({ type, flags, body: writer.bytes(), operation: `filter device ${of.device}` });
      return true;
    } catch (error) {
      if (error instanceof NetlinkError && of.forgive.includes(error.errnoName)) return false;
      throw error;
    }
  }
}

interface Header {
  readonly device: number;
  readonly handle: number;
  readonly parent: number;
  readonly info?: number;
}

/** `struct tcmsg`. */
function header({ device, handle, parent, info = 0 }: Header): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeInt32LE(device, 4);
  bytes.writeUInt32LE(handle, 8);
  bytes.writeUInt32LE(parent, 12);
  bytes.writeUInt32LE(info, 16);
  return bytes;
}

/** Undefined for what is only the head of a list. */
function filterOf(body: Buffer, at: Attachment): Filter | undefined {
  const attributes = new Attributes(body, 20);
  const options = attributes.nested(TCA.options);
  const handle = body.readUInt32LE(8);
  if (handle === 0 || body.readInt32LE(4) !== at.device) return undefined;
  const ours = attributes.string(TCA.kind) === 'bpf' && handle === HANDLE && options?.string(BPF.name) === NAME;
  return { ...at, ours, priority: body.readUInt32LE(16) >>> 16, program: options?.u32(BPF.id) ?? 0 };
}
