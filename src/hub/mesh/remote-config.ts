import { type ClusterConfig, decodeClusterConfig } from '../../kvstore/codec/cluster-config.ts';
import { BadValue, bool, fieldsOf, goJson, parseObject } from '../../kvstore/codec/json.ts';
import type { CacheKind } from './kinds.ts';

/** A cluster-config with everything that a KVStoreMesh heeds (kvstore specification 2.8). */
export interface RemoteConfig extends ClusterConfig {
  /** Undefined: the cluster does not know of them (up to 1.16). */
  readonly serviceExports: boolean | undefined;
  /** The same for our store: the two booleans are set, everything else is copied. */
  readonly cachedText: string;
}

const MAX_BYTES = 16 << 10;
/** The order in which Go writes them. */
const CAPABILITIES = [
  'syncedCanaries',
  'cached',
  'maxConnectedClusters',
  'serviceExportsEnabled',
  'endpointSlicesExportMode',
];

/** @throws BadValue */
export function decodeRemoteConfig(value: Buffer): RemoteConfig {
  if (value.length > MAX_BYTES) throw new BadValue(`cluster-config of ${value.length} bytes is too long`);
  const config = decodeClusterConfig(value);
  const raw = parseObject(value).get('capabilities');
  const capabilities = fieldsOf(raw ?? {}, 'capabilities');
  const exports = capabilities.get('serviceexportsenabled');
  return {
    ...config,
    serviceExports: exports === undefined || exports === null ? undefined : bool(capabilities, 'serviceExportsEnabled'),
    cachedText: cachedText(value),
  };
}

/** The kinds that a cluster of this configuration writes, each with a canary. */
export function followedKinds(config: RemoteConfig): readonly CacheKind[] {
  return [
    'identities',
    'nodes',
    'ip',
    ...(config.sliceMode === 'endpointslices-only' ? [] : (['services'] as const)),
    ...(config.serviceExports === undefined ? [] : (['serviceexports'] as const)),
    ...(config.sliceMode === '' ? [] : (['endpointslices'] as const)),
  ];
}

/** Fields that we do not know stay, behind those that we know. */
function cachedText(value: Buffer): string {
  const { id, capabilities, ...rest } = byGoName(JSON.parse(value.toString('utf8')), ['id', 'capabilities']);
  const known = byGoName(capabilities ?? {}, CAPABILITIES);
  const ordered = Object.fromEntries(
    CAPABILITIES.flatMap((name) => {
      const field = name === 'syncedCanaries' || name === 'cached' ? true : known[name];
      return field === undefined || field === null ? [] : [[name, field] as const];
    }),
  );
  const others = Object.entries(known).filter(([name]) => !CAPABILITIES.includes(name));
  return goJson({ id, capabilities: { ...ordered, ...Object.fromEntries(others) }, ...rest });
}

/** Go reads names in any case; it writes them in one. */
function byGoName(content: unknown, names: readonly string[]): Record<string, unknown> {
  const found: Record<string, unknown> = Object.create(null);
  for (const [name, field] of Object.entries(content as object)) {
    const known = names.find((each) => each.toLowerCase() === name.toLowerCase());
    if (field !== null || known === undefined) found[known ?? name] = field;
  }
  return found;
}
