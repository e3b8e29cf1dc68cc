import type { Address } from '../core/ip.ts';
import type { CheckSettings } from './settings.ts';

/** IP protocols that services have. */
export type ServiceProtocol = 6 | 17 | 132;

/** Where a new connection to a frontend is led. */
export interface ServiceTarget {
  readonly address: Address;
  readonly port: number;
  /** Share of the new connections, relative to the other targets; at least 1. */
  readonly weight: number;
}

/** One address and port that clients connect to. This, by its key, is the only thing of a service that a data path sees. */
export interface ServiceFrontend {
  readonly address: Address;
  readonly protocol: ServiceProtocol;
  readonly port: number;
  /** One client stays with one target as long as that is there. */
  readonly sticky: boolean;
  /** Without duplicates, at most `MAX_TARGETS`. None: connections are refused at once. */
  readonly targets: readonly ServiceTarget[];
}

/** What a data path can tell apart for one frontend; the model takes a share of more. */
export const MAX_TARGETS = 8192;
export const MAX_WEIGHT = 100;

/** `<address> <protocol> <port>`, the address in canonical text. */
export type FrontendKey = string;

/** Frontends that are in force, as they are now. */
export interface ServiceMap {
  readonly size: number;
  get(key: FrontendKey): ServiceFrontend | undefined;
  keys(): Iterable<FrontendKey>;
}

/**
 * `active`: gets connections. `standby`: could, but others are preferred. `terminating`, `not-ready`: its cluster says so.
 * `unhealthy`: it fails the check of this machine. `unreachable`: its cluster is lost. `refused`: not believed.
 */
export const BACKEND_STATES = [
  'active',
  'standby',
  'terminating',
  'not-ready',
  'unhealthy',
  'unreachable',
  'refused',
] as const;
export type BackendState = (typeof BACKEND_STATES)[number];

/** `<address> <protocol> <port>` of a backend, the address in canonical text. */
export type PlaceKey = string;

/** What is to be checked for a backend. */
export interface CheckTarget {
  readonly place: PlaceKey;
  readonly address: Address;
  /** TCP. */
  readonly port: number;
}

/** How and what is to be checked for one service. */
export interface CheckPlan {
  readonly check: CheckSettings;
  readonly targets: ReadonlyMap<PlaceKey, CheckTarget>;
}

/** What became of one backend address of one cluster in one service. */
export interface BackendView {
  readonly cluster: string;
  readonly address: string;
  readonly ports: readonly { readonly name: string; readonly protocol: string; readonly port: number }[];
  readonly state: BackendState;
  /** Gets new connections: active ones, and others where nothing better is left. */
  readonly serving: boolean;
  /** Why it is not active. */
  readonly reason: string | undefined;
  /** Milliseconds since the epoch. */
  readonly since: number;
}

export interface FrontendView {
  readonly cluster: string;
  readonly address: string;
  readonly name: string;
  readonly protocol: string;
  readonly port: number;
  /** Why nothing is led from here; undefined when it is in force. */
  readonly refused: string | undefined;
}

/** A service as this machine has it: all clusters that share it, or the joined cluster's own. */
export interface ServiceView {
  readonly namespace: string;
  readonly name: string;
  readonly global: boolean;
  readonly affinity: 'none' | 'local' | 'remote';
  /** Clusters whose frontends or backends count. */
  readonly clusters: readonly string[];
  readonly frontends: readonly FrontendView[];
  readonly backends: readonly BackendView[];
  /** What is wrong with what the clusters say of it, in words. */
  readonly problems: readonly string[];
}
