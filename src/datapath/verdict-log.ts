import { DROP, type DropReason } from '../core/drop-reason.ts';

/**
 * How the rules tell of verdicts (`log group`, nfnetlink_log): each kind has a prefix of its own. One listener at a time has the
 * group; without one the kernel drops what is told. Only the headers are copied.
 */
export const VERDICT_LOG = { group: 21_388, copyBytes: 128 } as const;

export type Side = 'in' | 'out';

/** What becomes of a packet, by the chain that decides it. */
export const VERDICT_KINDS = {
  /** No rule allows it. */
  no_rule: { verdict: 'DROPPED', sides: ['in', 'out'], reason: DROP.noRule },
  deny_rule: { verdict: 'DROPPED', sides: ['in', 'out'], reason: DROP.denyRule },
  /** The connection was allowed once, and its policy is withdrawn. */
  withdrawn: { verdict: 'DROPPED', sides: ['in', 'out'], reason: DROP.noRule },
  /** An outer packet of the overlay that no known node sent. */
  stranger: { verdict: 'DROPPED', sides: ['in'], reason: DROP.unknownSender },
  /** An outer packet of the overlay that the overlay did not make. */
  spoofed: { verdict: 'DROPPED', sides: ['out'], reason: DROP.spoofedTunnel },
  /** A service that has no backend refuses connections. */
  no_backend: { verdict: 'DROPPED', sides: ['out'], reason: DROP.noBackend },
  /** It would be dropped, were it not for the audit. */
  audited: { verdict: 'AUDIT', sides: ['in', 'out'], reason: DROP.noRule },
  /** A new connection; told of only while somebody wants to know. */
  allowed: { verdict: 'FORWARDED', sides: ['in', 'out'], reason: undefined },
  /** Headers that do not add up; seen by eBPF alone, since the kernel drops them before the packet filter. */
  malformed: { verdict: 'DROPPED', sides: ['in', 'out'], reason: DROP.invalid },
} as const satisfies Record<string, { verdict: FlowVerdict; sides: readonly Side[]; reason: DropReason | undefined }>;

export type FlowVerdict = 'FORWARDED' | 'DROPPED' | 'AUDIT';
export type VerdictKind = keyof typeof VERDICT_KINDS;

/** A kind in one direction; also the name of its chain and its counter. */
export interface VerdictPoint {
  readonly kind: VerdictKind;
  readonly side: Side;
  readonly name: string;
}

export const VERDICT_POINTS: readonly VerdictPoint[] = (Object.keys(VERDICT_KINDS) as VerdictKind[]).flatMap((kind) =>
  VERDICT_KINDS[kind].sides.map((side) => ({ kind, side, name: `${kind}_${side}` })),
);

/** Counters of packets that were told of, by direction. */
export const TOLD = { in: 'told_in', out: 'told_out' } as const;

const PREFIX = 'mesh-agent:';
const byPrefix = new Map(VERDICT_POINTS.map((point) => [PREFIX + point.name, point]));

export function logPrefix({ name }: VerdictPoint): string {
  return PREFIX + name;
}

/** Undefined for a prefix that is none of ours. */
export function pointOfPrefix(prefix: string): VerdictPoint | undefined {
  return byPrefix.get(prefix);
}
