import { BpfError } from '../../host/bpf/command.ts';
import { programId } from '../../host/bpf/program.ts';
import { parseLink } from '../../host/links.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../host/netlink.ts';
import { RTM, RTNLGRP } from '../../host/rtnetlink.ts';
import { type Attacher, type Attachment, attachmentKey, ENDS, type End } from './attacher.ts';
import { ClsactAttacher } from './clsact.ts';
import type { BpfFolder } from './folder.ts';
import type { Generation, ProgramName } from './generation.ts';
import { TcxAttacher } from './tcx.ts';

/** Names of the devices that are judged. */
export interface Borders {
  readonly external: readonly string[];
  readonly overlay: string | undefined;
}

const PROGRAM: Readonly<Record<'external' | 'overlay', Readonly<Record<End, ProgramName>>>> = {
  external: { enter: 'enter', leave: 'leave' },
  overlay: { enter: 'enter_overlay', leave: 'leave_overlay' },
};

/** Keeps the programs of a generation on the devices of the border, as devices come and go. */
export class BorderWatch {
  readonly #socket: NetlinkSocket;
  #attacher: Attacher;
  #closed = false;

  /** `onDevices` is told when devices came, went, or were renamed. */
  constructor(of: { folder: BpfFolder; attach: 'auto' | 'clsact'; onDevices: () => void }) {
    this.#attacher = of.attach === 'clsact' ? new ClsactAttacher() : new TcxAttacher(of.folder.links);
    this.#socket = new NetlinkSocket({
      family: NETLINK_ROUTE,
      onEvent: ({ type }) => {
        if (type === RTM.newLink || type === RTM.delLink) of.onDevices();
      },
      onLost: of.onDevices,
    });
    this.#socket.join(RTNLGRP.link);
  }

  get how(): Attacher['name'] {
    return this.#attacher.name;
  }

  /** Numbers of the programs that are attached. */
  async programs(): Promise<Set<number>> {
    return new Set((await this.#attacher.list()).map(({ program }) => program));
  }

  /** @returns what had to be attached, exchanged or dropped. @throws MeshError */
  async follow(borders: Borders, generation: Generation): Promise<string[]> {
    const wanted = await this.#wanted(borders);
    const held = new Map((await this.#attacher.list()).map((each) => [attachmentKey(each), each]));
    const done: string[] = [];
    for (const [key, { at, program: name, device }] of wanted) {
      const fd = await generation.program(name);
      const id = programId(fd);
      if (held.get(key)?.program === id) continue;
      if (await this.#put(at, { fd, id })) done.push(`${device} ${at.end}`);
    }
    for (const [key, each] of held) {
      if (wanted.has(key)) continue;
      await this.#attacher.drop(each);
      done.push(key);
    }
    return done;
  }

  async #put(at: Attachment, program: { fd: number; id: number }): Promise<boolean> {
    try {
      await this.#attacher.put(at, program);
      return true;
    } catch (error) {
      const name = (error as { errnoName?: string }).errnoName;
      // It went between our look and now.
      if (name === 'ENODEV') return false;
      const noTcx = error instanceof BpfError && name === 'EINVAL' && this.#attacher.name === 'tcx';
      if (!noTcx) throw error;
      this.#attacher.close();
      this.#attacher = new ClsactAttacher();
      await this.#attacher.put(at, program);
      return true;
    }
  }

  async #wanted({
    external,
    overlay,
  }: Borders): Promise<Map<string, { at: Attachment; program: ProgramName; device: string }>> {
    const wanted = new Map<string, { at: Attachment; program: ProgramName; device: string }>();
    const names = new Set(external);
    await this.#socket.dump({ type: RTM.getLink, body: new Uint8Array(16), operation: 'read devices' }, ({ body }) => {
      const link = parseLink(body);
      if (link === undefined || link.loopback) return;
      const role = link.name === overlay ? 'overlay' : names.has(link.name) ? 'external' : undefined;
      if (role === undefined) return;
      for (const end of ENDS) {
        const at = { device: link.index, end };
        wanted.set(attachmentKey(at), { at, program: PROGRAM[role][end], device: link.name });
      }
    });
    return wanted;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#attacher.close();
    this.#socket.close();
  }
}
