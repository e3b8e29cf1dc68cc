import type { LoggedPacket } from '../host/packet-log.ts';
import type { KernelConnection } from './connection.ts';
import type { DesiredChanges, DesiredState } from './desired.ts';
import type { OverlayStatus } from './overlay/status.ts';
import type { VerdictKind } from './verdict-log.ts';

/**
 * A data path: brings the kernel to the desired state and says what the kernel really holds. One implementation per
 * technology (`nft/`), and `none`. `apply` is never called twice at once.
 */
export interface Datapath {
  readonly name: 'nftables' | 'bpf' | 'none';
  /**
   * Finds out what the kernel holds from an earlier run and whether this machine can carry the data path. Changes nothing.
   * @throws MeshError with the missing feature and its remedy
   */
  open(): Promise<void>;
  /** One change set, visible whole or not at all. Rejects with MeshError; the caller tries again with backoff. */
  apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport>;
  /** What the kernel holds now, read from the kernel. */
  dumpAddresses(): Promise<KernelAddress[]>;
  dumpPolicy(): Promise<KernelPolicyRow[]>;
  dumpServices(): Promise<KernelFrontend[]>;
  dumpConnections(): Promise<KernelConnection[]>;
  /**
   * Tells of packets (`verdict-log.ts`, `name-log.ts`) until the result is called. Without one, or without a result, they are
   * told of by the packet filter, in its log groups.
   */
  hear?(what: 'verdicts' | 'names', onPacket: (packet: LoggedPacket) => void): (() => void) | undefined;
  readonly status: DatapathStatus;
  /** Called when a foreign hand changed what is ours; the caller answers with `apply(everything)`. */
  onDrift(listener: (what: string) => void): void;
  /** Takes every rule of ours away (`mesh-agent leave`). */
  remove(): Promise<void>;
  /** Stops watching; leaves the kernel as it is (fail static). */
  close(): Promise<void>;
}

export interface ApplyReport {
  /** Elements and rules added and removed. */
  readonly added: number;
  readonly removed: number;
  readonly tookMs: number;
  /** Connections that the change forbade and that were cut. */
  readonly cut: number;
}

export interface DatapathStatus {
  readonly applied: boolean;
  readonly appliedAt: number | undefined;
  readonly entries: {
    readonly addresses: number;
    readonly prefixes: number;
    readonly policyRows: number;
    readonly classes: number;
    /** Frontends of services, and the slots of their targets. */
    readonly frontends?: number;
    readonly slots?: number;
  };
  readonly error: { readonly code: string; readonly message: string; readonly since: number } | undefined;
  /** How often a foreign change was found and healed. */
  readonly healed: number;
  readonly denied: { readonly ingress: Counter; readonly egress: Counter };
  /** By kind and direction; they never go back. Absent where nothing is judged, and until they are read. */
  readonly verdicts?: readonly VerdictCount[];
  /** Packets that were told of to whoever listens (`verdict-log.ts`); `verdicts` has all. */
  readonly told?: number;
  /** False where `Border.watchNames` and `tellRate` have no effect: the kernel cannot tell of packets. */
  readonly tellsNames?: boolean;
  /** Where connections to services are led, and why not at the socket alone; absent where there are none. */
  readonly services?: { readonly at: ServicePlace; readonly reason?: string };
  /** False where `DesiredState.services` has no effect: nft or the kernel are too old for it. */
  readonly balances?: boolean;
  /** Device and routes; the policy data paths have none, `KernelDatapath` adds it. */
  readonly overlay?: OverlayStatus;
}

export interface Counter {
  readonly packets: number;
  readonly bytes: number;
}

export interface VerdictCount extends Counter {
  readonly kind: VerdictKind;
  readonly direction: 'ingress' | 'egress';
}

export interface KernelAddress {
  readonly prefix: string;
  readonly identity: number;
  /** Tunnel endpoint by the route in the kernel, `0.0.0.0` for none. */
  readonly tunnelEndpoint: string;
}

/** At the socket, when a connection is made; by its packets; or either, for the machine's own and those of others. */
export type ServicePlace = 'socket' | 'packet' | 'both';

/** One frontend of a service as the kernel has it. */
export interface KernelFrontend {
  readonly address: string;
  readonly protocol: number;
  readonly port: number;
  /** Clients stay with their target. */
  readonly sticky: boolean;
  /** New connections since the number of its slots last changed. */
  readonly connections: number;
  readonly at: ServicePlace;
  /** None: connections are refused. A target has as many slots as its weight asks for. */
  readonly targets: readonly { readonly address: string; readonly port: number; readonly slots: number }[];
}

export interface KernelPolicyRow {
  readonly direction: 'ingress' | 'egress';
  readonly verdict: 'allow' | 'deny';
  /** A denial that is counted, not applied. */
  readonly audit?: boolean;
  /** Identities of the class; empty for the class of all others. */
  readonly identities: readonly number[];
  readonly classNumber: number;
  readonly protocol: number;
  readonly first: number;
  readonly last: number;
  readonly packets: number;
  readonly bytes: number;
}
