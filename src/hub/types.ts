import type { ConfigurationRecord, HealthRecord } from '../api/types.ts';

/** The answer to `hub status`, as JSON and YAML show it. */
export interface HubStatusRecord {
  readonly apiVersion: string;
  readonly kind: 'HubStatus';
  /** `ok`: nothing is wrong. `degraded`: something is. */
  readonly state: 'ok' | 'degraded';
  readonly version: string;
  readonly pid: number;
  /** Milliseconds since the epoch, as all times here. */
  readonly since: number;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly names: readonly string[];
  readonly listen: { readonly etcd: string; readonly enrolment: string };
  readonly leader: { readonly id: string; readonly since: number; readonly here: boolean } | null;
  readonly store: {
    readonly state: string;
    readonly endpoints: readonly string[];
    readonly summary: string;
    readonly leases: number;
  };
  readonly etcd: {
    /** Whether the hub runs it. */
    readonly own: boolean;
    readonly process: { readonly state: string; readonly pid: number | null; readonly starts: number } | null;
    readonly members: readonly MemberRecord[];
    readonly quota: number | null;
    readonly alarms: readonly string[];
  };
  /** The way of machines and clusters to etcd; null while it is not open. */
  readonly guard: {
    readonly listen: string;
    readonly connections: number;
    readonly users: number;
    readonly refused: number;
  } | null;
  readonly certificates: readonly { readonly name: string; readonly notAfter: number }[];
  /** Undefined where nothing reads it again. */
  readonly configuration?: ConfigurationRecord;
  readonly caHash: string;
  readonly parts: readonly PartRecord[];
  readonly health: readonly HealthRecord[];
}

export interface MemberRecord {
  readonly endpoint: string;
  readonly version: string;
  readonly leader: boolean;
  readonly revision: number;
  readonly size: number;
  readonly sizeInUse: number;
}

export interface PartRecord {
  readonly name: string;
  readonly where: 'everywhere' | 'leader';
  readonly state: 'starting' | 'running' | 'failed' | 'stopped';
  readonly facts: object;
}
