/** One backend as far as the choice goes. */
export interface Candidate {
  readonly cluster: string;
  readonly unreachable: boolean;
  readonly weight: number;
}

export interface RotationOptions {
  readonly affinity: 'none' | 'local' | 'remote';
  readonly local: string | undefined;
  readonly onClusterLoss: 'keep' | 'remove';
}

/**
 * The backends that get new connections (kvstore specification 8.5, as of 1.18). `local`: those of the local cluster while
 * one of them is healthy, else the others; `remote` is its mirror. What is unreachable is the last resort, or no resort at
 * all; a weight of 0 is out as well.
 */
export function inRotation<C extends Candidate>(candidates: readonly C[], options: RotationOptions): readonly C[] {
  const willing = candidates.filter(({ weight }) => weight > 0);
  const healthy = willing.filter(({ unreachable }) => !unreachable);
  if (healthy.length > 0) return preferred(healthy, options);
  return options.onClusterLoss === 'keep' ? preferred(willing, options) : [];
}

function preferred<C extends Candidate>(candidates: readonly C[], { affinity, local }: RotationOptions): readonly C[] {
  if (affinity === 'none') return candidates;
  const near = candidates.filter(({ cluster }) => (cluster === local) === (affinity === 'local'));
  return near.length > 0 ? near : candidates;
}
