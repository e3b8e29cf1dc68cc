import type { API_VERSION } from '../../api/types.ts';
import type { CacheKind } from '../mesh/kinds.ts';

/** What the hub says of remote clusters at its socket. Times are milliseconds since the epoch. */

/** One prerequisite, and whether it is met. */
export interface Verdict {
  /** What was looked at: `name`, `connection`, `heartbeat`, `configuration`, `id`, `canaries`, `ranges`, ... */
  readonly check: string;
  readonly state: 'ok' | 'warning' | 'error';
  readonly text: string;
  /** Of the table of errors, with its remedy; absent when all is well. */
  readonly code?: string;
  readonly remedy?: string;
}

export interface CertificateRecord {
  readonly serial: string;
  readonly subject: string;
  readonly issuer: string;
  readonly notBefore: number;
  readonly notAfter: number;
}

/** What is stored of a cluster; there is no secret in it. */
export interface ConnectedClusterRecord {
  readonly name: string;
  readonly endpoints: readonly string[];
  readonly connectedAt: number;
  readonly changedAt: number;
  readonly certificates: {
    readonly authority: readonly CertificateRecord[];
    readonly client: readonly CertificateRecord[];
  };
}

/** A connected cluster as the hub that leads sees it. */
export interface RemoteClusterRecord extends ConnectedClusterRecord {
  readonly connected: boolean;
  readonly ready: boolean;
  /** One line, as `cilium-dbg status` has it. */
  readonly status: string;
  readonly config: {
    readonly retrieved: boolean;
    readonly clusterId: number | null;
    readonly kvstoremesh: boolean;
    readonly syncCanaries: boolean;
    readonly maxConnectedClusters: number | null;
    /** Null: the cluster does not know of them. */
    readonly serviceExports: boolean | null;
  };
  /** Keys in the cache. */
  readonly counts: Readonly<Record<CacheKind, number>>;
  readonly synced: Readonly<Record<CacheKind, boolean>>;
  /** Keys that are still to be written. */
  readonly pending: number;
  readonly bytes: number;
  readonly refused: Readonly<Record<'identity' | 'address' | 'form' | 'size' | 'count', number>>;
  readonly refusedExamples: readonly { readonly key: string; readonly reason: string }[];
  readonly store: {
    readonly state: string;
    readonly endpoint: string | null;
    readonly clusterId: string | null;
    readonly reconnections: number;
    readonly failures: number;
    readonly lastFailure: { readonly at: number; readonly code: string; readonly message: string } | null;
    readonly lastHeartbeat: number | null;
    readonly troubles: readonly { readonly subject: string; readonly code: string; readonly message: string }[];
  };
  readonly readyAt: number | null;
  readonly verdicts: readonly Verdict[];
}

/** The answer of `hub cluster connect`. */
export interface ConnectAnswer {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'ClusterConnection';
  readonly name: string;
  readonly change: 'created' | 'changed' | 'unchanged';
  readonly verdicts: readonly Verdict[];
}

/** The answer of `hub cluster export`: what that cluster's operator applies. It holds a private key. */
export interface ExportAnswer {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'ClusterExport';
  /** For whom. */
  readonly name: string;
  /** The cluster of this hub. */
  readonly cluster: { readonly name: string; readonly id: number; readonly maxConnectedClusters: number };
  /** Under which names and addresses the store of the hub is reached. */
  readonly names: readonly string[];
  readonly port: number;
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
  readonly notAfter: number;
}
