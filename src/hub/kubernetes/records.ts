import type { RefusedObject } from './outcome.ts';
import type { ReflectorStatus } from './reflector.ts';

/** Facts of the part `kubernetes` in `hub status`. Times are milliseconds since the epoch, null for never. */
export interface KubernetesFacts {
  /** The kubeconfig; null when the hub follows no cluster. */
  readonly config: string | null;
  readonly server: string | null;
  readonly connected: boolean;
  /** When our store was last in step with what is known of the cluster. */
  readonly lastSync: number | null;
  readonly policies: number;
  readonly workloads: number;
  readonly resources: readonly {
    readonly kind: string;
    readonly state: ReflectorStatus['state'];
    readonly objects: number;
    readonly listedAt: number | null;
    readonly heardAt: number | null;
    readonly error: string | null;
  }[];
  /** Some of them. */
  readonly refused: readonly RefusedObject[];
  readonly refusedCount: number;
  readonly conflicts: readonly string[];
  readonly conflictCount: number;
}
