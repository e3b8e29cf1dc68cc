import type { PartFactory } from '../part.ts';
import { hubFactsOf } from '../workloads/hub-facts.ts';
import { ConnectionTeller } from './connection-teller.ts';

/** In every hub, behind the part that opens the facts: who is connected to this hub, for all hubs to know. */
export const connectionsPart: Extract<PartFactory, { where: 'everywhere' }> = {
  where: 'everywhere',
  create: ({ store, id, users }) => {
    let teller: ConnectionTeller | undefined;
    return {
      name: 'connections',
      async start() {
        teller = new ConnectionTeller({ store, hub: id, users });
      },
      async stop() {
        await teller?.close();
      },
      status: () => ({
        here: teller?.size ?? 0,
        machines: hubFactsOf(store).connections.size,
        lastError: teller?.lastError ?? null,
      }),
    };
  },
};
