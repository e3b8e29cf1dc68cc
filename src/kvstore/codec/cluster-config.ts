import { ALL_FACT_KINDS, FACT_KINDS, type FactKind } from '../paths.ts';
import { BadValue, bool, fieldsOf, parseObject, quoted, text, uint } from './json.ts';

/** A CiliumClusterConfig of `cluster-config/<cluster>` (specification 2.8). */
export interface ClusterConfig {
  readonly id: number;
  readonly syncedCanaries: boolean;
  readonly cached: boolean;
  readonly maxConnectedClusters: 255 | 511;
  /** `endpointSlicesExportMode`; empty: the cluster writes no endpoint slices. */
  readonly sliceMode: SliceMode;
}

const SLICE_MODES = ['', 'services-and-endpointslices', 'endpointslices-only'] as const;
export type SliceMode = (typeof SLICE_MODES)[number];

/** What a cluster of this configuration writes, each kind with a canary. */
export function factKinds({ sliceMode }: Pick<ClusterConfig, 'sliceMode'>): readonly FactKind[] {
  if (sliceMode === '') return FACT_KINDS;
  return sliceMode === 'endpointslices-only' ? ALL_FACT_KINDS.filter((kind) => kind !== 'services') : ALL_FACT_KINDS;
}

/** @throws BadValue */
export function decodeClusterConfig(value: Buffer): ClusterConfig {
  const fields = parseObject(value);
  const raw = fields.get('capabilities');
  const capabilities = fieldsOf(raw === undefined || raw === null ? {} : raw, 'capabilities');
  const max = uint(capabilities, 'maxConnectedClusters', 65535) || 255;
  if (max !== 255 && max !== 511) throw new BadValue(`maxConnectedClusters ${max} is neither 255 nor 511`);
  const id = uint(fields, 'id');
  if (id === 0) throw new BadValue('cluster id is 0 or missing');
  if (id > max) throw new BadValue(`ClusterID > ${max} is not supported (${id})`);
  return {
    id,
    syncedCanaries: bool(capabilities, 'syncedCanaries'),
    cached: bool(capabilities, 'cached'),
    maxConnectedClusters: max,
    sliceMode: sliceMode(text(capabilities, 'endpointSlicesExportMode')),
  };
}

/** Cilium 1.20 refuses the whole configuration as well: nobody knows where such a cluster has its backends. */
function sliceMode(value: string): SliceMode {
  const known = SLICE_MODES.find((mode) => mode === value);
  if (known === undefined) throw new BadValue(`endpointSlicesExportMode ${quoted(value)} is not known`);
  return known;
}

/** Whether a configuration, be it good or not, says that it is the one of a copy that a KVStoreMesh keeps. */
export function saysCached(value: Buffer): boolean {
  try {
    return bool(fieldsOf(parseObject(value).get('capabilities') ?? {}, 'capabilities'), 'cached');
  } catch {
    return false;
  }
}
