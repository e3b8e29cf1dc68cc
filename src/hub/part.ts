import type { Health } from '../api/health.ts';
import type { Log } from '../observe/log.ts';
import type { Metrics } from '../observe/metrics.ts';
import type { HubApi } from './api.ts';
import type { HubConfig } from './config.ts';
import type { Leadership } from './election.ts';
import type { MachineAccess } from './etcd/machine-access.ts';
import type { ConnectedUsers } from './guard/connected-users.ts';
import type { HubPki } from './hub-pki.ts';
import type { HubStore } from './hub-store.ts';

/** Something that the hub does beside others: it is started and stopped once. */
export interface HubPart {
  /** One word; `hub status` shows it. */
  readonly name: string;
  /** Resolves when it works. What it throws ends the hub (a part everywhere) or the term of the leader. */
  start(): Promise<void>;
  /** Also called when `start` failed or has not returned yet. */
  stop(): Promise<void>;
  /** Facts for `hub status -o json`. */
  status(): object;
}

/** What a part is given. */
export interface HubContext {
  /** Names this hub, unlike any other process. */
  readonly id: string;
  readonly config: HubConfig;
  readonly store: HubStore;
  readonly pki: HubPki;
  /** Users and roles of machines and of remote clusters in the store. */
  readonly access: MachineAccess;
  /** Who is connected to this hub. */
  readonly users: ConnectedUsers;
  readonly health: Health;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Whether this hub leads, as far as it knows: for what may be done twice, but better is not. */
  readonly leading: () => boolean;
  /** The local socket: a part adds its paths before it starts and needs not remove them. */
  readonly api: HubApi;
}

/**
 * How a part is made. Parts `everywhere` run in every hub as long as it runs; parts of the `leader` are made anew for each
 * term, and stopped when it ends. A leader's part writes through `leader.transact` or with `leader.conditions`.
 */
export type PartFactory =
  | { readonly where: 'everywhere'; create(context: HubContext): HubPart }
  | { readonly where: 'leader'; create(context: HubContext, leader: Leadership): HubPart };
