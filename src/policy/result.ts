import type { NumericIdentity } from '../core/identity.ts';
import type { Prefix } from '../core/ip.ts';

/**
 * What the policy model resolves to, per direction: identities fall into classes, a class is a list of rows. This is the
 * only thing of the policy that a data path sees.
 */
export type Direction = 'ingress' | 'egress';
export type Verdict = 'allow' | 'deny';

/** IP protocol numbers that policies can name; 0 stands for every protocol. */
export const PROTOCOL = { any: 0, icmp: 1, tcp: 6, udp: 17, icmpv6: 58, sctp: 132 } as const;
export type Protocol = (typeof PROTOCOL)[keyof typeof PROTOCOL];

/** Names one rule for people: its policy, its source, and the place in it. */
export interface RuleRef {
  /** `CiliumNetworkPolicy/<namespace>/<name>`, `CiliumClusterwideNetworkPolicy/<name>`, ..., or `implicit/<what>`. */
  readonly policy: string;
  /** Where in the object: `specs[1].ingress[0]`. */
  readonly path: string;
  /** Line in the document, from 1, where known. */
  readonly line?: number;
}

/**
 * One row. Rows of a class never contradict: a lookup by exact port, then range, then whole protocol, then any protocol
 * stops at its first hit, and that hit is the verdict; no hit is deny. Ranges of one class and protocol are disjoint
 * (an exact port may lie in a range).
 */
export interface PolicyRow {
  readonly protocol: Protocol;
  /** First and last destination port, or ICMP type; 0 and 65535 for every port (ICMP: every type). */
  readonly first: number;
  readonly last: number;
  readonly verdict: Verdict;
  /** The verdict is reported, not applied (audit of a policy). */
  readonly audit?: boolean;
  /** The rules that decide this row: denying ones of a deny row, allowing ones of an allow row. */
  readonly rules: readonly RuleRef[];
}

export interface PolicyClass {
  /** Positive, stable while the process lives, unique per direction. */
  readonly id: number;
  /** Sorted by protocol, first, last. */
  readonly rows: readonly PolicyRow[];
}

export interface DirectionPolicy {
  /** Some policy selects this machine in this direction. */
  readonly enforcing: boolean;
  /** What no row matches is denied. */
  readonly defaultDeny: boolean;
  /** The class of every identity that has none of its own, unknown numbers included. */
  readonly unknownClass: PolicyClass;
  classOf(id: NumericIdentity): PolicyClass;
  /** Identities whose class is not `unknownClass`. */
  identities(): Iterable<readonly [NumericIdentity, PolicyClass]>;
  /** All classes in use, `unknownClass` included. */
  classes(): Iterable<PolicyClass>;
}

/** What changed since it was last asked for. */
export interface DirectionChanges {
  /** Identities whose class is another one now. */
  readonly identities: ReadonlySet<NumericIdentity>;
  /** Class ids that appeared, disappeared or have other rows; `unknownClass` included. */
  readonly classes: ReadonlySet<number>;
}

export interface PolicyChanges {
  readonly ingress: DirectionChanges;
  readonly egress: DirectionChanges;
  /** Prefixes (canonical text) whose local identity appeared or disappeared. */
  readonly prefixes: ReadonlySet<string>;
}

/** The outcome that data paths and tools read. */
export interface ResolvedPolicy {
  /** Raised by one on every change of the rules. */
  readonly revision: number;
  readonly ingress: DirectionPolicy;
  readonly egress: DirectionPolicy;
  /** Local identities of the prefixes that policies name, by canonical prefix text (specification 6.3.4). */
  readonly prefixes: ReadonlyMap<string, { readonly prefix: Prefix; readonly identity: NumericIdentity }>;
}
