import { createPrivateKey, X509Certificate } from 'node:crypto';
import { endpoint } from '../../config/values.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { BadValue, list, parseObject, text, uint } from '../../kvstore/codec/json.ts';

export const CLUSTERS_PREFIX = 'mesh-agent/v1/clusters/';

/** How a remote cluster is reached: its etcd configuration with the certificates themselves, in PEM. */
export interface ClusterAccess {
  readonly endpoints: readonly string[];
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly username?: string;
  readonly password?: string;
}

/** What `mesh-agent/v1/clusters/<name>` holds. Times are milliseconds since the epoch. */
export interface ClusterDocument extends ClusterAccess {
  readonly name: string;
  /** First, and last. */
  readonly connectedAt: number;
  readonly changedAt: number;
}

const NAME = /^(?=.{1,32}$)([a-z0-9][-a-z0-9]*)?[a-z0-9]$/;
const MAX_PEM = 256 << 10;
const MAX_ENDPOINTS = 32;
const MAX_TEXT = 256;

/** @throws MeshError HUB-CLUSTER */
export function checkClusterName(name: string, own: string): string {
  const shown = JSON.stringify(name.slice(0, 60));
  if (!NAME.test(name) || name === 'default')
    throw wrong(`${shown} is no name of a cluster: 1 to 32 of a-z, 0-9 and -, and not the word default`);
  if (name === own) throw wrong(`${shown} is the cluster of this hub`);
  return name;
}

/**
 * The access that someone asks for, checked: a certificate that cannot work is refused before it is stored.
 * @throws MeshError HUB-CLUSTER
 */
export function checkAccess(asked: unknown): ClusterAccess {
  const access = readAccess(asked);
  const { endpoints, ca, cert, key } = access;
  if (endpoints.length === 0 || endpoints.length > MAX_ENDPOINTS)
    throw wrong(`${endpoints.length} endpoints: there must be 1 to ${MAX_ENDPOINTS}`);
  for (const each of endpoints) checkEndpoint(each);
  const secure = endpoints.filter((each) => each.startsWith('https:')).length;
  if (secure > 0 && secure < endpoints.length) throw wrong('some endpoints are with TLS, others without');
  if (secure === 0 && (ca ?? cert ?? key) !== undefined) throw wrong('there are certificates, but no endpoint has TLS');
  if ((cert === undefined) !== (key === undefined)) throw wrong('a certificate and its key must be given together');
  for (const each of ca === undefined ? [] : certificatesOf(ca, 'the authority')) checkDates(each, 'the authority');
  if (cert !== undefined && key !== undefined) checkPair(cert, key);
  return access;
}

/** Certificates in a PEM text. @throws MeshError HUB-CLUSTER */
export function certificatesOf(pem: string, what: string): readonly [X509Certificate, ...X509Certificate[]] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  try {
    const [first, ...rest] = blocks.map((block) => new X509Certificate(block));
    if (first === undefined) throw new Error('there is no PEM certificate in it');
    return [first, ...rest];
  } catch (cause) {
    throw wrong(`${what}: ${messageOf(cause)}`);
  }
}

export function encodeClusterDocument(document: ClusterDocument): string {
  return JSON.stringify(document);
}

/** @throws BadValue, MeshError HUB-CLUSTER */
export function decodeClusterDocument(name: string, value: Buffer): ClusterDocument {
  const fields = parseObject(value);
  if (text(fields, 'name') !== name) throw new BadValue('the name is not that of its key');
  const time = (field: string): number => uint(fields, field, Number.MAX_SAFE_INTEGER);
  const access = readAccess({
    endpoints: list(fields, 'endpoints'),
    ...Object.fromEntries(
      TEXTS.flatMap((each) => (text(fields, each) === '' ? [] : [[each, text(fields, each)] as const])),
    ),
  });
  return { name, ...access, connectedAt: time('connectedAt'), changedAt: time('changedAt') };
}

const TEXTS = ['ca', 'cert', 'key', 'username', 'password'] as const;

function readAccess(asked: unknown): ClusterAccess {
  if (typeof asked !== 'object' || asked === null || Array.isArray(asked)) throw wrong('it is no object');
  const found = asked as Record<string, unknown>;
  const unknown = Object.keys(found).find((each) => each !== 'endpoints' && !TEXTS.some((known) => known === each));
  if (unknown !== undefined) throw wrong(`unknown field ${JSON.stringify(unknown.slice(0, 60))}`);
  const { endpoints } = found;
  if (!Array.isArray(endpoints) || endpoints.some((each) => typeof each !== 'string'))
    throw wrong('endpoints must be a list of URLs');
  const texts = TEXTS.flatMap((name) => {
    const value = found[name];
    if (value === undefined || value === null || value === '') return [];
    const most = name === 'username' || name === 'password' ? MAX_TEXT : MAX_PEM;
    if (typeof value !== 'string' || value.length > most)
      throw wrong(`${name} must be text of at most ${most} characters`);
    return [[name, value] as const];
  });
  return { endpoints: endpoints as readonly string[], ...Object.fromEntries(texts) };
}

function checkEndpoint(url: string): void {
  try {
    endpoint.read(url);
  } catch (cause) {
    throw wrong(`endpoint ${JSON.stringify(url.slice(0, 200))}: ${messageOf(cause)}`);
  }
}

function checkPair(cert: string, key: string): void {
  const [certificate] = certificatesOf(cert, 'the client certificate');
  checkDates(certificate, 'the client certificate');
  let fits: boolean;
  try {
    fits = certificate.checkPrivateKey(createPrivateKey(key));
  } catch {
    // The reason could quote the key.
    throw wrong('there is no PEM private key without a password in the key file');
  }
  if (!fits) throw wrong('the key does not belong to the client certificate');
}

function checkDates({ validToDate }: X509Certificate, what: string): void {
  if (validToDate.getTime() < Date.now()) throw wrong(`${what} expired on ${validToDate.toISOString()}`);
}

function wrong(detail: string): MeshError {
  return new MeshError('HUB-CLUSTER', detail);
}
