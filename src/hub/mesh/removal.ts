import { messageOf } from '../../core/errors.ts';
import { sleep } from '../../core/job.ts';
import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import { CLUSTER_CONFIG_PREFIX } from '../../kvstore/paths.ts';
import type { Operation, Transaction } from '../../kvstore/transaction.ts';
import { CACHE_KINDS, cacheCanary, cacheFolder } from './kinds.ts';

export interface RemovalTiming {
  /** Between the end of the cluster-config and the end of the cache: readers must notice. */
  readonly graceMs: number;
  /** Before the first repetition; doubled each time. */
  readonly retryMs: number;
}

export const REMOVAL_TIMING: RemovalTiming = { graceMs: 3 * 60_000, retryMs: 2000 };
const TRIES = 6;

export interface RemovalOptions {
  readonly cluster: string;
  readonly announcements: LeasedKeys;
  readonly transact: (transaction: Transaction) => Promise<unknown>;
  readonly timing: RemovalTiming;
  readonly signal: AbortSignal;
  readonly onProblem: (message: string) => void;
}

/**
 * Takes the copy of a cluster away that is not connected any more (kvstore specification 5.5). The keys are left to their
 * leases if it does not succeed.
 * @returns whether it is gone
 */
export async function removeCache(options: RemovalOptions): Promise<boolean> {
  const { cluster, announcements, timing, signal } = options;
  announcements.remove(CLUSTER_CONFIG_PREFIX + cluster);
  // It may be from a leader before us, and not known there.
  if (!(await persist(options, [{ remove: CLUSTER_CONFIG_PREFIX + cluster }]))) return false;
  await sleep(timing.graceMs, signal);
  for (const kind of CACHE_KINDS) announcements.remove(cacheCanary(kind, cluster));
  for (const kind of CACHE_KINDS) {
    const both = [{ remove: cacheCanary(kind, cluster) }, { removePrefix: cacheFolder(kind, cluster) }];
    if (!(await persist(options, both))) return false;
  }
  return true;
}

/** Tries again a few times. */
async function persist(options: RemovalOptions, perform: readonly Operation[]): Promise<boolean> {
  const { cluster, transact, timing, signal, onProblem } = options;
  let pause = timing.retryMs;
  for (let tries = 1; tries <= TRIES && !signal.aborted; tries++) {
    try {
      await transact({ perform });
      return true;
    } catch (error) {
      onProblem(`the cache of ${cluster} is not removed yet: ${messageOf(error)}`);
      await sleep(pause, signal);
      pause *= 2;
    }
  }
  return false;
}
