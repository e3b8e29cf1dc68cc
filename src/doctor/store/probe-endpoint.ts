import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { MeshError, messageOf } from '../../core/errors.ts';
import { type ClusterConfig, decodeClusterConfig } from '../../kvstore/codec/cluster-config.ts';
import type { EtcdOptions } from '../../kvstore/etcd-config.ts';
import { decodeRange, encodeRange, prefixEnd, type RangeRequest, type RangeResponse } from '../../kvstore/messages.ts';
import { CLUSTER_CONFIG_PREFIX, HEARTBEAT_KEY } from '../../kvstore/paths.ts';
import { isForbidden, Transport } from '../../kvstore/transport.ts';

export interface EndpointQuestion {
  /** Of the cluster, for the key that every reader of it may read. */
  readonly cluster: string;
  readonly endpoint: string;
  readonly etcd: EtcdOptions;
  readonly signal: AbortSignal;
}

/** What one endpoint answered. */
export interface EndpointEvidence {
  readonly endpoint: string;
  readonly host: string;
  readonly port: number;
  readonly addresses: readonly string[];
  /** Why it cannot be used; what follows is undefined then, as far as it was not reached. */
  readonly failure?: MeshError;
  readonly clusterId?: string;
  /** Milliseconds since the epoch as the cluster's clock says; undefined without one. */
  readonly heartbeat?: number;
  /** Configurations of clusters that the store holds, by name; undefined when it may not be read. */
  readonly clusters?: ReadonlyMap<string, ClusterConfig | Error>;
}

const DNS_MS = 4000;
const TIMING = { connectMs: 4000, requestMs: 3000, pingMs: 20_000, pingAnswerMs: 10_000 };
const MAX_CLUSTERS = 512;

/** Goes the way of a connection step by step, as far as it gets. Never throws. */
export async function probeEndpoint(question: EndpointQuestion): Promise<EndpointEvidence> {
  const url = new URL(question.endpoint);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  const base = { endpoint: question.endpoint, host, port, addresses: isIP(host) === 0 ? [] : [host] };
  try {
    const addresses = isIP(host) === 0 ? await resolve(host, question.endpoint) : base.addresses;
    return { ...base, addresses, ...(await ask(question)) };
  } catch (error) {
    const failure = error instanceof MeshError ? error : new MeshError('KVS-LOST', messageOf(error), { cause: error });
    return { ...base, failure };
  }
}

async function resolve(host: string, endpoint: string): Promise<string[]> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${DNS_MS / 1000} s`)), DNS_MS);
  });
  try {
    return (await Promise.race([lookup(host, { all: true }), limit])).map(({ address }) => address);
  } catch (cause) {
    throw new MeshError('KVS-DNS', messageOf(cause), { place: endpoint, cause });
  } finally {
    clearTimeout(timer);
  }
}

type Answers = Omit<EndpointEvidence, 'endpoint' | 'host' | 'port' | 'addresses'>;

async function ask({ cluster, endpoint, etcd, signal }: EndpointQuestion): Promise<Answers> {
  let transport: Transport;
  try {
    transport = await Transport.connect(endpoint, etcd, TIMING, signal);
  } catch (error) {
    return { failure: withRoute(error, endpoint) };
  }
  try {
    const heartbeat = await read(transport, HEARTBEAT_KEY);
    if (heartbeat instanceof MeshError) return { failure: heartbeat };
    const clusters = await readClusters(transport, cluster);
    if (clusters instanceof MeshError) return { failure: clusters, ...identityOf(heartbeat) };
    const text = heartbeat?.kvs[0]?.value.toString('latin1');
    const at = text === undefined ? Number.NaN : Date.parse(text);
    return { ...identityOf(heartbeat), clusters, ...(Number.isFinite(at) && { heartbeat: at }) };
  } finally {
    transport.close();
  }
}

function identityOf(answer: RangeResponse | undefined): Answers {
  return answer === undefined ? {} : { clusterId: answer.header.clusterId };
}

/** The kernel's words for a way that does not exist: no packet ever left. */
function withRoute(error: unknown, endpoint: string): MeshError {
  const text = messageOf(error);
  if (/ENETUNREACH/.test(text))
    return new MeshError('HST-ROUTE', 'the kernel knows no way there', { place: endpoint, cause: error });
  return error instanceof MeshError ? error : new MeshError('KVS-LOST', text, { place: endpoint, cause: error });
}

/** Undefined when this key alone is not for us to read. */
async function read(transport: Transport, key: string): Promise<RangeResponse | MeshError | undefined> {
  try {
    return await transport.request('KV/Range', encodeRange({ key }), decodeRange);
  } catch (error) {
    if (isForbidden(error)) return undefined;
    const failure = error instanceof MeshError ? error : new MeshError('KVS-LOST', messageOf(error));
    if (failure.code !== 'KVS-TIMEOUT' && failure.code !== 'KVS-NO-QUORUM') return failure;
    return (await answersAlone(transport, key))
      ? new MeshError('KVS-NO-QUORUM', 'this member answers, but only for itself')
      : failure;
  }
}

/** A member without a quorum still answers what needs none. */
async function answersAlone(transport: Transport, key: string): Promise<boolean> {
  try {
    await transport.request('KV/Range', encodeRange({ key, serializable: true }), decodeRange);
    return true;
  } catch (error) {
    return isForbidden(error);
  }
}

/** All of them where they may be listed, else the one that every reader of the cluster may read. */
async function readClusters(
  transport: Transport,
  cluster: string,
): Promise<Map<string, ClusterConfig | Error> | MeshError> {
  const prefix = { key: CLUSTER_CONFIG_PREFIX, rangeEnd: prefixEnd(CLUSTER_CONFIG_PREFIX), limit: MAX_CLUSTERS };
  const decode = (data: Buffer): RangeResponse => decodeRange(data, Buffer.from(CLUSTER_CONFIG_PREFIX));
  const request = (range: RangeRequest): Promise<RangeResponse> =>
    transport.request('KV/Range', encodeRange(range), decode);
  try {
    const { kvs } = await request(prefix).catch((error: unknown) => {
      if (!isForbidden(error)) throw error;
      return request({ key: CLUSTER_CONFIG_PREFIX + cluster });
    });
    return new Map(kvs.map(({ key, value }) => [key, decoded(value)] as const));
  } catch (error) {
    return error instanceof MeshError ? error : new MeshError('KVS-LOST', messageOf(error));
  }
}

function decoded(value: Buffer): ClusterConfig | Error {
  try {
    return decodeClusterConfig(value);
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}
