import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { API_VERSION } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import type { StoredKeyValue } from '../../kvstore/transaction.ts';
import { generateKey, privateKeyPem } from '../../pki/keys.ts';
import { hostAndPort } from '../etcd/arguments.ts';
import { clusterUser } from '../etcd/machine-access.ts';
import { readCachedClusters } from '../mesh/cached-clusters.ts';
import type { HubContext } from '../part.ts';
import {
  CLUSTERS_PREFIX,
  type ClusterAccess,
  type ClusterDocument,
  checkAccess,
  checkClusterName,
  decodeClusterDocument,
  encodeClusterDocument,
} from './cluster-document.ts';
import { Credentials, PROBE } from './credentials.ts';
import { probeCluster } from './probe.ts';
import type { ConnectAnswer, ExportAnswer } from './records.ts';

type BookContext = Pick<HubContext, 'config' | 'store' | 'pki' | 'access'>;

const EXPORT_SECONDS = 365 * 86_400;

/** Which clusters are connected, and what is handed out to them. Any hub may write here. */
export class ClusterBook {
  readonly #context: BookContext;

  constructor(context: BookContext) {
    this.#context = context;
  }

  async list(): Promise<readonly ClusterDocument[]> {
    const { entries } = await this.#context.store.readPrefix(CLUSTERS_PREFIX);
    return entries.flatMap((entry) => {
      const document = documentIn(entry);
      return document === undefined ? [] : [document];
    });
  }

  /** @throws MeshError HUB-CLUSTER-UNKNOWN */
  async get(name: string): Promise<ClusterDocument> {
    const found = await this.#find(name);
    if (found?.document === undefined) throw unknown(name);
    return found.document;
  }

  /**
   * Connects a cluster, or changes how it is reached. A store that cannot be reached now is connected all the same, and told
   * so. @throws MeshError HUB-CLUSTER, MSH-CLUSTER-ID, HUB-CONFLICT, KVS-*
   */
  async connect(name: string, asked: unknown): Promise<ConnectAnswer> {
    const { config, store } = this.#context;
    checkClusterName(name, config.cluster.name);
    const access = checkAccess(asked);
    const found = await this.#find(name);
    const before = found?.document;
    const verdicts = await this.#probe(name, access);
    const now = Date.now();
    const document = { name, ...access, connectedAt: before?.connectedAt ?? now, changedAt: now };
    const head = { apiVersion: API_VERSION, kind: 'ClusterConnection', name, verdicts } as const;
    if (before !== undefined && isDeepStrictEqual({ ...document, changedAt: 0 }, { ...before, changedAt: 0 }))
      return { ...head, change: 'unchanged' };
    const key = CLUSTERS_PREFIX + name;
    const { succeeded } = await store.transact({
      when: [{ key, modRevision: found?.revision ?? 0 }],
      perform: [{ put: key, value: encodeClusterDocument(document) }],
    });
    if (!succeeded) throw new MeshError('HUB-CONFLICT', name);
    return { ...head, change: before === undefined ? 'created' : 'changed' };
  }

  /** @throws MeshError HUB-CLUSTER-UNKNOWN, KVS-* */
  async disconnect(name: string): Promise<void> {
    if (!(await this.#context.store.remove(CLUSTERS_PREFIX + name))) throw unknown(name);
  }

  /**
   * Lets a cluster read what the hub publishes: a user of its own, and a certificate with a key that is kept nowhere here.
   * @throws MeshError HUB-CLUSTER, PKI-*, KVS-*
   */
  async export(name: string): Promise<ExportAnswer> {
    const { config, access, pki } = this.#context;
    checkClusterName(name, config.cluster.name);
    const key = generateKey();
    const issued = pki.ca.issueClient({ commonName: clusterUser(name), publicKey: key, seconds: EXPORT_SECONDS });
    await access.grantCluster(name);
    return {
      apiVersion: API_VERSION,
      kind: 'ClusterExport',
      name,
      cluster: { ...config.cluster, maxConnectedClusters: config.maxConnectedClusters },
      names: config.names,
      port: hostAndPort(config.etcd.endpoints[0]?.replace('https://', '') ?? config.listen.etcd).port,
      ca: pki.ca.certificate,
      certificate: issued.pem,
      key: privateKeyPem(key),
      notAfter: issued.notAfter.getTime(),
    };
  }

  /** Ends the rights of every certificate that was exported for this cluster. */
  async revoke(name: string): Promise<void> {
    const { access, config } = this.#context;
    await access.revokeCluster(checkClusterName(name, config.cluster.name));
  }

  async #probe(name: string, access: ClusterAccess): Promise<ConnectAnswer['verdicts']> {
    const { config, store, pki } = this.#context;
    const credentials = new Credentials(pki.folder.path);
    const holders = new Map<number, string>();
    const connected = new Set((await this.list()).map((document) => document.name));
    for (const { name: other, config: cached } of await readCachedClusters(store))
      if (cached !== undefined && connected.has(other)) holders.set(cached.id, other);
    const files = `${PROBE}${randomBytes(6).toString('hex')}`;
    try {
      const etcd = await credentials.write(files, access);
      return await probeCluster({ name, etcd, own: config.cluster, max: config.maxConnectedClusters, holders });
    } finally {
      await credentials.remove(files);
    }
  }

  async #find(
    name: string,
  ): Promise<{ readonly document: ClusterDocument | undefined; readonly revision: number } | undefined> {
    const entry = await this.#context.store.read(CLUSTERS_PREFIX + name);
    return entry && { document: documentIn({ ...entry, key: name }), revision: entry.modRevision };
  }
}

/** Undefined when it cannot be read: connecting again replaces it. */
function documentIn({ key, value }: StoredKeyValue): ClusterDocument | undefined {
  try {
    return decodeClusterDocument(key, value);
  } catch {
    return undefined;
  }
}

function unknown(name: string): MeshError {
  return new MeshError('HUB-CLUSTER-UNKNOWN', JSON.stringify(name.slice(0, 60)));
}
