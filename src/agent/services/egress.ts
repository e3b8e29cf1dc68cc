import type { TransportPort } from '../../config/config.ts';
import { RESERVED } from '../../core/identity.ts';
import type { Address } from '../../core/ip.ts';
import { judge } from '../../datapath/judge.ts';
import type { Ipcache } from '../../mesh/ipcache.ts';
import type { DirectionPolicy } from '../../policy/result.ts';

export interface EgressFacts {
  readonly ipcache: Ipcache;
  readonly dualStack: boolean;
  readonly egress: DirectionPolicy;
  /** Outbound ports that always pass. */
  readonly failsafe: readonly TransportPort[];
}

/** Whether the policy of this machine denies that it connects to a TCP port of a backend. */
export function deniesTcp(facts: EgressFacts, address: Address, port: number): boolean {
  const { ipcache, dualStack, egress, failsafe } = facts;
  if (failsafe.some((each) => each.protocol === 6 && each.port === port)) return false;
  const world = address.family === 4 ? RESERVED.worldIpv4 : RESERVED.worldIpv6;
  const identity = ipcache.lookup(address)?.identity ?? (dualStack ? world : RESERVED.world);
  return judge(egress, { identity, protocol: 6, port }) === 'deny';
}
