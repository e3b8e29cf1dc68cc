import type { Address } from '../core/ip.ts';
import type { NodeAddress } from '../kvstore/codec/node.ts';
import { type Registered, routerAddress } from '../mesh/registration.ts';
import type { Tables } from '../mesh/tables.ts';
import type { Machine } from './machine.ts';

/** What we tell the cluster of ourselves (kvstore specification 6.2, step 9): node addresses, then router addresses. */
export function registeredAddresses(machine: Machine, registered: Registered): NodeAddress[] {
  const own = [machine.ipv4, machine.ipv6].filter((address) => address !== undefined);
  return [
    ...own.map((address) => ({ type: 'InternalIP', address })),
    ...routerAddresses(registered).map((address) => ({ type: 'CiliumInternalIP', address })),
  ];
}

/** Our own addresses in the ipcache: nobody else's word on them counts. `former` is the cluster that they were claimed for. */
export function claimOwnAddresses(
  tables: Tables,
  machine: Machine,
  { registered, former }: { readonly registered: Registered; readonly former: string | undefined },
): void {
  if (former !== undefined && former !== registered.cluster.name)
    tables.ipcache.sweep(tables.origins.of(former, 'local'));
  const origin = tables.origins.of(registered.cluster.name, 'local');
  const generation = tables.nextGeneration();
  const own = [machine.ipv4, machine.ipv6, ...routerAddresses(registered)].filter((address) => address !== undefined);
  for (const address of own) {
    tables.ipcache.claim(origin, generation, {
      address,
      bits: undefined,
      identity: registered.identity,
      tunnelEndpoint: undefined,
    });
  }
  tables.ipcache.sweep(origin, generation);
}

function routerAddresses(registered: Registered): Address[] {
  return [registered.ranges4[0], registered.ranges6[0]].filter((range) => range !== undefined).map(routerAddress);
}
