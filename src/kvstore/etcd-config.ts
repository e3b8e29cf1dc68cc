import { readFile } from 'node:fs/promises';
import { parseDocument } from 'yaml';
import { MeshError, messageOf } from '../core/errors.ts';

/** How to reach one store. Paths are read again at every connect, so that certificates rotate without a restart. */
export interface EtcdOptions {
  /** URLs; `https://` means TLS, `http://` means none. */
  readonly endpoints: readonly string[];
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly username?: string;
  readonly password?: string;
}

/**
 * Reads the etcd client configuration that Cilium uses, one file per cluster (kvstore specification 4.1). Keys that we
 * do not use are ignored. `insecure-skip-tls-verify` is refused: a store that cannot prove who it is decides whom this
 * machine lets in.
 */
export async function readEtcdConfig(path: string): Promise<EtcdOptions> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new MeshError('KVS-FILE', messageOf(cause), { place: path, cause });
  }
  return parseEtcdConfig(text, path);
}

/** The same from text; `place` is named in errors. */
export function parseEtcdConfig(text: string, place: string): EtcdOptions {
  const document = parseDocument(text, { uniqueKeys: true });
  const problem = document.errors[0];
  if (problem !== undefined) throw new MeshError('KVS-CONFIG', problem.message.split('\n')[0] ?? '', { place });
  let content: unknown;
  try {
    content = document.toJS({ maxAliasCount: 10 });
  } catch (cause) {
    throw new MeshError('KVS-CONFIG', messageOf(cause), { place, cause });
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw new MeshError('KVS-CONFIG', 'no mapping of keys', { place });
  const values = new Map(Object.entries(content));
  const string = (key: string): string | undefined => {
    const value: unknown = values.get(key);
    if (value === undefined || value === null || value === '') return undefined;
    if (typeof value !== 'string') throw new MeshError('KVS-CONFIG', `${key} must be a string`, { place });
    return value;
  };
  const endpoints: unknown = values.get('endpoints');
  if (!Array.isArray(endpoints) || endpoints.length === 0)
    throw new MeshError('KVS-CONFIG', 'endpoints must be a list with at least one URL', { place });
  if (values.get('insecure-skip-tls-verify') === true)
    throw new MeshError('KVS-CONFIG', 'insecure-skip-tls-verify is not accepted', { place });
  const ca = string('trusted-ca-file') ?? string('ca-file');
  const [cert, key, username, password] = [
    string('cert-file'),
    string('key-file'),
    string('username'),
    string('password'),
  ];
  const secure = (ca ?? cert ?? key) !== undefined;
  return {
    endpoints: endpoints.map((endpoint) => checkedEndpoint(endpoint, secure, place)),
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
  };
}

/** As in etcd's client, an endpoint without a scheme is reached by TLS when certificates are configured. */
function checkedEndpoint(endpoint: unknown, secure: boolean, place: string): string {
  const scheme = secure ? 'https' : 'http';
  const text = typeof endpoint === 'string' && !endpoint.includes('://') ? `${scheme}://${endpoint}` : endpoint;
  if (typeof text !== 'string' || !URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
    throw new MeshError('KVS-CONFIG', `endpoint ${JSON.stringify(endpoint)} is no http(s) URL`, { place });
  }
  if (secure && new URL(text).protocol === 'http:') {
    const problem = `endpoint ${text} is without TLS although certificates are configured`;
    throw new MeshError('KVS-CONFIG', problem, { place });
  }
  return text;
}
