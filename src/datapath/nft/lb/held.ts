import type { KernelElement } from '../elements.ts';
import { type FrontendBytes, PROTOCOLS, readSlot, slotMap } from './keys.ts';

const MAX_SLOTS = 65_536;

/** One frontend as the kernel has it. */
export interface HeldFrontend {
  /** What `lb_services` says; undefined while nothing leads to the slots. */
  choice: number | undefined;
  /** New connections as they were counted when this was read. */
  connections: number;
  /** Targets by slot. */
  readonly slots: (string | undefined)[];
}

/** The services that the kernel holds, as far as we know. */
export class HeldServices {
  readonly frontends = { 4: new Map<FrontendBytes, HeldFrontend>(), 6: new Map<FrontendBytes, HeldFrontend>() };

  get size(): number {
    return this.frontends[4].size + this.frontends[6].size;
  }

  /** Elements of all slots. */
  get slotCount(): number {
    let count = 0;
    for (const frontends of Object.values(this.frontends))
      for (const { slots } of frontends.values()) count += slots.length;
    return count;
  }

  at(family: 4 | 6, frontend: FrontendBytes): HeldFrontend {
    const known = this.frontends[family].get(frontend);
    if (known !== undefined) return known;
    const made: HeldFrontend = { choice: undefined, connections: 0, slots: [] };
    this.frontends[family].set(frontend, made);
    return made;
  }

  clear(): void {
    this.frontends[4].clear();
    this.frontends[6].clear();
  }

  /** Takes what a dump told. `dump` visits the elements of one map. */
  async read(dump: (map: string, visit: (element: KernelElement) => void) => Promise<void>): Promise<void> {
    this.clear();
    for (const family of [4, 6] as const) {
      await dump(`lb_services${family}`, ({ key, value, packets }) => {
        const frontend = this.at(family, key.toString('latin1'));
        frontend.choice = value;
        frontend.connections = packets;
      });
      for (const protocol of PROTOCOLS) {
        await dump(slotMap(protocol, family), ({ key, data }) => {
          const { frontend, slot } = readSlot(protocol, family, key);
          // More than there can be was not written by us.
          if (slot < MAX_SLOTS) this.at(family, frontend).slots[slot] = data?.toString('latin1');
        });
      }
    }
  }
}
