/** One backend as far as the choice goes. */
export interface Candidate {
  readonly cluster: string;
  /** Its cluster is lost. */
  readonly unreachable: boolean;
  /** It does not pass this machine's check. */
  readonly unhealthy: boolean;
  /** Its cluster says that it goes away. */
  readonly terminating: boolean;
  readonly weight: number;
}

export interface RotationOptions {
  readonly affinity: 'none' | 'local' | 'remote';
  readonly local: string | undefined;
  readonly onClusterLoss: 'keep' | 'remove';
}

/**
 * The best there are, from the first line that has any. A backend that goes away takes new connections only when nothing
 * else is left, as Cilium has it. What fails our checks comes last, and not never: it may be the checks that are wrong.
 */
const RANKS: readonly ((candidate: Candidate) => boolean)[] = [
  ({ unreachable, unhealthy, terminating }) => !unreachable && !unhealthy && !terminating,
  ({ unreachable, unhealthy }) => !unreachable && !unhealthy,
  ({ unhealthy }) => !unhealthy,
  () => true,
];

/**
 * The backends that get new connections (kvstore specification 8.5, as of 1.18). `local`: those of the local cluster while
 * one of them is healthy, else the others; `remote` is its mirror. What is unreachable is the last resort, or no resort at
 * all; a weight of 0 is out as well.
 */
export function inRotation<C extends Candidate>(candidates: readonly C[], options: RotationOptions): readonly C[] {
  const { onClusterLoss } = options;
  const willing = candidates.filter(
    ({ weight, unreachable }) => weight > 0 && (onClusterLoss === 'keep' || !unreachable),
  );
  for (const isOfRank of RANKS) {
    const best = willing.filter(isOfRank);
    if (best.length > 0) return preferred(best, options);
  }
  return [];
}

function preferred<C extends Candidate>(candidates: readonly C[], { affinity, local }: RotationOptions): readonly C[] {
  if (affinity === 'none') return candidates;
  const near = candidates.filter(({ cluster }) => (cluster === local) === (affinity === 'local'));
  return near.length > 0 ? near : candidates;
}
