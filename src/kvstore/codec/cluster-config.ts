import { BadValue, bool, fieldsOf, parseObject, uint } from './json.ts';

/** A CiliumClusterConfig of `cluster-config/<cluster>` (specification 2.8). */
export interface ClusterConfig {
  readonly id: number;
  readonly syncedCanaries: boolean;
  readonly cached: boolean;
  readonly maxConnectedClusters: 255 | 511;
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
  };
}
