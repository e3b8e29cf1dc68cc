import type { ErrorCode } from '../core/errors.ts';
import type { API_VERSION } from './types.ts';

/** `skipped`: it could not be looked at, and `text` says why. */
export type Verdict = 'ok' | 'warning' | 'error' | 'skipped';

/** Parts that are looked at, in the order in which they are shown. */
export type CheckGroup =
  | 'configuration'
  | 'agent'
  | 'machine'
  | 'stores'
  | 'clusters'
  | 'network'
  | 'services'
  | 'policies';

/** What one check found out about one thing. Names are stable, as in `types.ts`. */
export interface CheckRecord {
  readonly group: CheckGroup;
  /** `store`, `conntrack`, `ranges` and so on. */
  readonly check: string;
  /** What was looked at: a cluster, an endpoint, a folder; empty for the machine as a whole. */
  readonly subject: string;
  readonly verdict: Verdict;
  /** With a warning or an error. */
  readonly code?: ErrorCode;
  /** What was seen, with the figures. */
  readonly text: string;
  readonly place?: string;
  /** With a warning or an error. */
  readonly remedy?: string;
  /** Code and subject of the finding that this one follows from: mend that first. */
  readonly because?: { readonly code: ErrorCode; readonly subject: string };
}

/** The answer of `mesh-agent doctor`; causes come before their consequences. */
export interface DoctorRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'Doctor';
  readonly state: 'ok' | 'degraded' | 'not-joined' | 'not-running';
  readonly version: string;
  readonly at: number;
  readonly tookMs: number;
  readonly counts: Readonly<Record<Verdict, number>>;
  readonly checks: readonly CheckRecord[];
}

/** What an agent contributes: the checks that need its facts, and those of the machine. */
export interface AgentChecksRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'AgentChecks';
  readonly version: string;
  readonly checks: readonly CheckRecord[];
}
