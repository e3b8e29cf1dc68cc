import { type HeldServices, MAX_SLOTS } from '../../lb/held.ts';
import type { KernelElement } from '../elements.ts';
import { PROTOCOLS, readSlot, slotMap } from './keys.ts';

/** Takes what a dump tells. `dump` visits the elements of one map. */
export async function readServices(
  held: HeldServices,
  dump: (map: string, visit: (element: KernelElement) => void) => Promise<void>,
): Promise<void> {
  held.clear();
  for (const family of [4, 6] as const) {
    await dump(`lb_services${family}`, ({ key, value, packets }) => {
      const frontend = held.at(family, key.toString('latin1'));
      frontend.choice = value;
      frontend.connections = packets;
    });
    for (const protocol of PROTOCOLS) {
      await dump(slotMap(protocol, family), ({ key, data }) => {
        const { frontend, slot } = readSlot(protocol, family, key);
        // More than there can be was not written by us.
        if (slot < MAX_SLOTS) held.at(family, frontend).slots[slot] = data?.toString('latin1');
      });
    }
  }
}
