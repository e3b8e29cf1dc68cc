import type { Border } from '../../datapath/desired.ts';
import type { PolicyRow } from '../../policy/result.ts';

/** What the file begins with: whose it is, and from when. */
export interface Head {
  readonly format: number;
  /** Of the agent that wrote it. */
  readonly version: string;
  readonly name: string;
  readonly cluster: string;
  /** `machineMark`. */
  readonly machine: string;
  /** Milliseconds since the epoch. */
  readonly savedAt: number;
}

/** A row without the rules that decided it: those are for people. */
export type SavedRow = readonly [
  protocol: PolicyRow['protocol'],
  first: number,
  last: number,
  verdict: PolicyRow['verdict'],
  audit: 0 | 1,
];

export interface SavedDirection {
  readonly enforcing: boolean;
  readonly defaultDeny: boolean;
  readonly unknown: number;
  readonly classes: readonly { readonly id: number; readonly rows: readonly SavedRow[] }[];
}

/** Addresses and prefixes as canonical text. */
export interface SavedOverlay {
  readonly device: string;
  readonly port: number;
  readonly identity: number;
  readonly source4: string | null;
  readonly source6: string | null;
  readonly underlayMtu: number;
  readonly ownAddresses: readonly string[];
}

export interface SavedBorder {
  readonly devices: readonly string[];
  readonly dualStack: boolean;
  readonly failsafe: Border['failsafe'];
  readonly stores: readonly { readonly address: string; readonly port: number }[];
  readonly nodes: readonly string[];
  readonly tunnelPort: number;
  readonly watchNames: boolean;
  readonly audit: boolean;
}

/** A frontend of a service: its key, whether clients stay with a target, and address, port and weight of each target. */
export type SavedFrontend = readonly [
  key: string,
  sticky: 0 | 1,
  targets: readonly (readonly [address: string, port: number, weight: number])[],
];

/** Everything that is not a table. */
export interface Body {
  readonly border: SavedBorder;
  readonly ingress: SavedDirection;
  readonly egress: SavedDirection;
  readonly overlay: SavedOverlay | null;
  /** Tunnel endpoints, by index. */
  readonly vias: readonly string[];
  readonly registration: {
    readonly cluster: { readonly name: string; readonly id: number };
    readonly identity: number;
    readonly labels: readonly string[];
    readonly ranges: readonly string[];
  } | null;
}
