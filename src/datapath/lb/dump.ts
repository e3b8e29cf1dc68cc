import type { KernelFrontend, ServicePlace } from '../datapath.ts';
import type { HeldServices } from './held.ts';
import { readFrontend, readTarget } from './keys.ts';
import { readChoice } from './sizes.ts';

/** The frontends that the kernel leads from, with their targets; slots that nothing leads to are not told. */
export function frontendsOf(held: HeldServices, at: ServicePlace): KernelFrontend[] {
  const found: KernelFrontend[] = [];
  for (const family of [4, 6] as const) {
    for (const [bytes, { choice, connections, slots }] of held.frontends[family]) {
      if (choice === undefined) continue;
      const { size, sticky } = readChoice(choice);
      const counts = new Map<string, number>();
      for (const target of slots.slice(0, size))
        if (target !== undefined) counts.set(target, (counts.get(target) ?? 0) + 1);
      const targets = [...counts].map(([target, count]) => ({ ...readTarget(family, target), slots: count }));
      found.push({ ...readFrontend(family, bytes), sticky, connections, at, targets });
    }
  }
  return found;
}
