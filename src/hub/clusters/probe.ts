import { MeshError, messageOf } from '../../core/errors.ts';
import type { EtcdOptions } from '../../kvstore/etcd-config.ts';
import { CLUSTER_CONFIG_PREFIX, canaryPrefix, HEARTBEAT_KEY } from '../../kvstore/paths.ts';
import { openStore } from '../../kvstore/session.ts';
import type { Store } from '../../kvstore/store.ts';
import { canaryTail } from '../mesh/kinds.ts';
import { decodeRemoteConfig, followedKinds, type RemoteConfig } from '../mesh/remote-config.ts';
import { bad, good, versionHint } from '../mesh/verdicts.ts';
import type { Verdict } from './records.ts';

export interface ProbeOptions {
  readonly name: string;
  readonly etcd: EtcdOptions;
  readonly own: { readonly name: string; readonly id: number };
  readonly max: 255 | 511;
  /** Which cluster has which id, as far as it is known. */
  readonly holders: ReadonlyMap<number, string>;
}

const CONNECT_MS = 8000;

/**
 * Looks into the store of a cluster that is to be connected. What may mend itself is a verdict.
 * @throws MeshError MSH-CLUSTER-ID when it can never be right
 */
export async function probeCluster(options: ProbeOptions): Promise<readonly Verdict[]> {
  const { etcd } = options;
  const store = openStore({
    etcd: async () => etcd,
    endpoints: etcd.endpoints,
    timing: { connectMs: CONNECT_MS - 3000, requestMs: 4000 },
  });
  try {
    await settled(store);
    const { status } = store;
    if (status.state !== 'connected') {
      const { code, message } = status.lastFailure ?? { code: 'KVS-TIMEOUT', message: status.summary };
      return [bad('connection', code as MeshError['code'], message)];
    }
    return [good('connection', `connected to ${status.endpoint ?? ''}`), ...(await look(store, options))];
  } finally {
    await store.close();
  }
}

/** Connected, or known to have failed. */
function settled(store: Store): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      off();
      resolve();
    };
    const off = store.onStatus(() => {
      if (store.status.state !== 'connecting') done();
    });
    const timer = setTimeout(done, CONNECT_MS);
  });
}

async function look(store: Store, options: ProbeOptions): Promise<readonly Verdict[]> {
  const { name } = options;
  const verdicts: Verdict[] = [];
  const read = async <T>(check: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      const code = error instanceof MeshError ? error.code : 'KVS-LOST';
      verdicts.push(
        bad(check === 'heartbeat' || code !== 'KVS-AUTH' ? check : 'authorization', code, messageOf(error)),
      );
      return undefined;
    }
  };
  const heartbeat = await read('heartbeat', async () => (await store.get(HEARTBEAT_KEY)) ?? null);
  if (heartbeat === null) verdicts.push(bad('heartbeat', 'KVS-HEARTBEAT', 'there is none', 'warning'));
  const key = CLUSTER_CONFIG_PREFIX + name;
  const found = await read('configuration', async () => (await store.get(key)) ?? null);
  if (found === null) verdicts.push(bad('configuration', 'HUB-CLUSTER-WAITING', `there is no key ${key}`, 'warning'));
  if (found === null || found === undefined) return verdicts;
  const config = readConfig(found.value, verdicts);
  if (config === undefined) return verdicts;
  checkId(config, options);
  verdicts.push(good('id', `${config.id} of ${config.maxConnectedClusters}`));
  verdicts.push(good('configuration', versionHint(config)));
  const canaries = await read('canaries', () => store.list(canaryPrefix(name)));
  if (canaries !== undefined && config.syncedCanaries) {
    const present = new Set(canaries.map(({ key: tail }) => tail));
    const layout = config.cached ? 'cached' : 'direct';
    const missing = followedKinds(config).filter((kind) => !present.has(canaryTail(kind, layout)));
    verdicts.push(
      missing.length === 0
        ? good('canaries', 'all there')
        : bad('canaries', 'HUB-CLUSTER-WAITING', `not there yet: ${missing.join(', ')}`, 'warning'),
    );
  }
  return verdicts;
}

function readConfig(value: Buffer, verdicts: Verdict[]): RemoteConfig | undefined {
  try {
    return decodeRemoteConfig(value);
  } catch (error) {
    verdicts.push(bad('configuration', 'MSH-CONFIG', messageOf(error)));
    return undefined;
  }
}

function checkId({ id, maxConnectedClusters }: RemoteConfig, { name, own, max, holders }: ProbeOptions): void {
  const refuse = (detail: string): never => {
    throw new MeshError('MSH-CLUSTER-ID', detail);
  };
  if (maxConnectedClusters !== max)
    refuse(`cluster ${name} has maxConnectedClusters ${maxConnectedClusters}, but the hub has ${max}`);
  if (id === own.id) refuse(`cluster id ${id} of ${name} is assigned to the local cluster ${own.name}`);
  const holder = holders.get(id);
  if (holder !== undefined && holder !== name) refuse(`cluster id ${id} of ${name} is already used by ${holder}`);
}
