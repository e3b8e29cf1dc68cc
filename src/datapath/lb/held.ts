import type { FrontendBytes } from './keys.ts';

/** More than a frontend can have. */
export const MAX_SLOTS = 65_536;

/** One frontend as the kernel has it. */
export interface HeldFrontend {
  /** What the map of frontends says (`sizes.ts`); undefined while nothing leads to the slots. */
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
}
