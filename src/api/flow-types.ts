/** Records of `mesh-agent monitor`: verdicts on packets, in a form that carries what Hubble's `flow.Flow` needs. */
import type { JudgementRecord, RuleRecord } from './policy-types.ts';

export type FlowVerdict = 'FORWARDED' | 'DROPPED' | 'AUDIT';

/** One end of a flow, as the agent knew it when the packet was seen. */
export interface FlowEndRecord {
  readonly address: string;
  readonly identity: number;
  readonly labels: readonly string[];
  /** It is this machine, or something inside of it. */
  readonly self?: true;
  readonly cluster?: string;
  /** Of the machine, or of the node, as `<cluster>/<node>`. */
  readonly node?: string;
  /** `<namespace>/<name>` of the service that has it as a frontend or a backend. */
  readonly service?: string;
  /** DNS names that the address was learnt by. */
  readonly names?: readonly string[];
}

/** What decided. */
export interface FlowPolicyRecord {
  readonly reason:
    | JudgementRecord['reason']
    | 'withdrawn'
    | 'unknown-sender'
    | 'spoofed-tunnel'
    | 'malformed'
    | 'no-backend'
    | 'earlier-run'
    | 'changed-meanwhile';
  /** The first ones; those that ask for default deny when no rule matches. */
  readonly rules: readonly RuleRecord[];
  /** So many more rules decide the same. */
  readonly more?: number;
  /** Ports of the deciding row: `tcp/8080`, `any`; absent when none matches. */
  readonly ports?: string;
  /** For a flow that passes whatever the policies say: why. */
  readonly why?: string;
}

/** One packet: the first of a connection, or one that no connection belongs to. */
export interface FlowRecord {
  /** Counts up while the agent lives. */
  readonly number: number;
  /** Milliseconds since the epoch, when the agent was told. */
  readonly time: number;
  readonly verdict: FlowVerdict;
  readonly direction: 'ingress' | 'egress';
  /** An answer of a connection that the policy of the other direction judges. */
  readonly reply: boolean;
  readonly ipVersion: 4 | 6;
  /** `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or the number of the protocol. */
  readonly protocol: string;
  readonly source: FlowEndRecord;
  /** Absent where the protocol has none. */
  readonly sourcePort?: number;
  readonly destination: FlowEndRecord;
  readonly destinationPort?: number;
  readonly tcpFlags?: readonly string[];
  readonly icmp?: { readonly type: number; readonly code: number };
  /** A later fragment: the ports are not in it. */
  readonly fragment?: true;
  /** Of the whole IP packet. */
  readonly bytes: number;
  /** Of what is dropped, or would be without the audit. */
  readonly dropReason?: { readonly number: number; readonly text: string; readonly name: string };
  readonly policy: FlowPolicyRecord;
  readonly interface: { readonly index: number; readonly name: string };
  /** Arguments of the `mesh-agent` command that explains it. */
  readonly explain: readonly string[];
}

/**
 * Where flows were lost. `kernel-limit`: more came than `monitor.rate` tells of. `kernel-buffer`: the agent was too slow for
 * the kernel, `agent-queue`: for itself. `reader`: whoever asked was too slow.
 */
export type LostSource = 'kernel-limit' | 'kernel-buffer' | 'agent-queue' | 'reader';

/** One line of `GET /v1/flows`. */
export type FlowEvent =
  | { readonly flow: FlowRecord }
  | { readonly lost: { readonly source: LostSource; readonly packets: number } }
  /** Nothing happened for a while; the connection lives. */
  | { readonly alive: number };
