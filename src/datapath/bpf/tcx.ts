import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { closeObject, openPinned, pinObject } from '../../host/bpf/command.ts';
import { createLink, deviceLinkInfo, TCX, updateLink } from '../../host/bpf/program.ts';
import { makePinFolder, pinsIn, removePins } from '../pins.ts';
import type { Attacher, Attachment, End, LoadedProgram } from './attacher.ts';

const PIN = /^(\d+)-(enter|leave)$/;
const POINT: Readonly<Record<End, number>> = { enter: TCX.ingress, leave: TCX.egress };

/** Links of Linux 6.6 and newer, kept by pins: `DEVICE-enter`, `DEVICE-leave`. Before all others of a device. */
export class TcxAttacher implements Attacher {
  readonly name = 'tcx';
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async list(): Promise<(Attachment & { program: number })[]> {
    const found: (Attachment & { program: number })[] = [];
    for (const name of pinsIn(this.#folder)) {
      const at = attachmentOf(name);
      const link = at === undefined ? undefined : openPinned(join(this.#folder, name), 'link');
      if (at === undefined || link === undefined) continue;
      const info = deviceLinkInfo(link);
      closeObject(link);
      if (info.device === at.device && info.attach === POINT[at.end]) found.push({ ...at, program: info.program });
      // The device is gone, or somebody has detached it: it will not come back to life.
      else rmSync(join(this.#folder, name), { force: true });
    }
    return found;
  }

  async put(to: Attachment, program: LoadedProgram): Promise<void> {
    makePinFolder(this.#folder);
    const path = join(this.#folder, `${to.device}-${to.end}`);
    const known = openPinned(path, 'link');
    if (known !== undefined) {
      try {
        updateLink(known, program.fd);
      } finally {
        closeObject(known);
      }
      return;
    }
    const link = createLink({ program: program.fd, target: to.device, attach: POINT[to.end], flags: TCX.before });
    try {
      pinObject(link, path);
    } finally {
      closeObject(link);
    }
  }

  async drop({ device, end }: Attachment): Promise<void> {
    rmSync(join(this.#folder, `${device}-${end}`), { force: true });
  }

  close(): void {
    if (pinsIn(this.#folder).length === 0) removePins(this.#folder);
  }
}

function attachmentOf(name: string): Attachment | undefined {
  const [, device, end] = PIN.exec(name) ?? [];
  return device === undefined ? undefined : { device: Number(device), end: end as End };
}
