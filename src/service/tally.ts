import type { Pool } from './pools.ts';
import type { Resolved } from './resolve.ts';
import { BACKEND_STATES, type BackendState } from './result.ts';

/** Backends of one service by state, and whether its frontends lead anywhere. */
export interface Tally {
  readonly name: string;
  readonly global: boolean;
  readonly frontends: number;
  /** Backends that get new connections. */
  readonly serving: number;
  readonly backends: Readonly<Record<BackendState, number>>;
}

export function tallyOf(name: string, kind: Pool['kind'], { inForce, backends, beyond }: Resolved): Tally {
  const counts = emptyCounts();
  counts.standby = beyond;
  let serving = 0;
  for (const backend of backends) {
    counts[backend.state]++;
    if (backend.serving) serving++;
  }
  return { name, global: kind === 'global', frontends: inForce.size, serving, backends: counts };
}

export function emptyCounts(): Record<BackendState, number> {
  return Object.fromEntries(BACKEND_STATES.map((state) => [state, 0])) as Record<BackendState, number>;
}
