import type { NumericIdentity } from '../core/identity.ts';
import type { DirectionPolicy, PolicyRow, Verdict } from '../policy/result.ts';

export interface Packet {
  readonly identity: NumericIdentity;
  /** IP protocol number. */
  readonly protocol: number;
  /** Destination port, or ICMP type. */
  readonly port: number;
}

/**
 * What the kernel does with a new connection, worked out from the policy itself: exact port, then range, then protocol,
 * then any protocol. Audited denials pass.
 */
export function judge(policy: DirectionPolicy, packet: Packet): Verdict {
  let best: PolicyRow | undefined;
  let bestRank = Number.POSITIVE_INFINITY;
  for (const row of policy.classOf(packet.identity).rows) {
    const rank = rankOf(row, packet);
    if (rank < bestRank) {
      best = row;
      bestRank = rank;
    }
  }
  if (best === undefined) return policy.enforcing && policy.defaultDeny ? 'deny' : 'allow';
  return best.audit === true ? 'allow' : best.verdict;
}

function rankOf(row: PolicyRow, packet: Packet): number {
  if (row.protocol === 0) return 3;
  if (row.protocol !== packet.protocol) return Number.POSITIVE_INFINITY;
  if (row.first === 0 && row.last >= 65535) return 2;
  if (packet.port < row.first || packet.port > row.last) return Number.POSITIVE_INFINITY;
  return row.first === row.last ? 0 : 1;
}
