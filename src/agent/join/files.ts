import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { constants, existsSync, readFileSync } from 'node:fs';
import { access, lstat, mkdir, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { MeshError, messageOf } from '../../core/errors.ts';
import { makePrivateFolder, writeFileSafely } from '../../pki/files.ts';

/** Where a machine keeps what it was given when it joined. */
export interface JoinFiles {
  readonly pki: string;
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** Of a join that is under way: the new key, then the answer of the hub. */
  readonly pendingKey: string;
  readonly pendingAnswer: string;
  /** How and where it joined; the last thing that is written. */
  readonly record: string;
  /** The configuration that joining adds to the operator's. */
  readonly config: string;
  readonly lock: string;
}

export const JOIN_CONFIG = '50-join.yaml';

/** The first line of what joining writes there: without it the file is the operator's. */
export const JOIN_CONFIG_MARK =
  '# Written by `mesh-agent join`; the next join replaces it, `mesh-agent leave` removes it.';

/** `configFile` is the main file of the configuration: what joining adds stands in `conf.d` beside it. */
export function joinFiles(stateDir: string, configFile: string): JoinFiles {
  const pki = join(stateDir, 'pki');
  return {
    pki,
    ca: join(pki, 'ca.crt'),
    cert: join(pki, 'agent.crt'),
    key: join(pki, 'agent.key'),
    pendingKey: join(pki, 'pending.key'),
    pendingAnswer: join(pki, 'pending.json'),
    record: join(stateDir, 'join.json'),
    config: join(dirname(configFile), 'conf.d', JOIN_CONFIG),
    lock: join(stateDir, 'join.lock'),
  };
}

/** What `join.json` says; there is no secret in it. */
export interface JoinRecord {
  readonly name: string;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly hubs: readonly string[];
  /** SHA-256 of the public key of the hub's authority, base64url. */
  readonly caHash: string;
  readonly tokenId: string;
  readonly joinedAt: string;
  /** Where the configuration was written. */
  readonly config: string;
}

/** undefined when this machine did not join, or what is there cannot be understood. */
export function readJoinRecord(files: Pick<JoinFiles, 'record'>): JoinRecord | undefined {
  const found = readJson(files.record);
  const { name, cluster, hubs, caHash, tokenId, joinedAt, config } = (found ?? {}) as Partial<JoinRecord>;
  const texts = [name, caHash, tokenId, joinedAt, config].every((text) => typeof text === 'string');
  const fine =
    texts &&
    typeof cluster?.name === 'string' &&
    typeof cluster.id === 'number' &&
    Array.isArray(hubs) &&
    hubs.every((hub) => typeof hub === 'string');
  return fine ? (found as JoinRecord) : undefined;
}

export function readJson(path: string): object | undefined {
  try {
    const found: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return typeof found === 'object' && found !== null ? found : undefined;
  } catch {
    return undefined;
  }
}

/** The certificate of this machine, if it is there with the key that it is for. */
export function readPair(files: Pick<JoinFiles, 'cert' | 'key'>): X509Certificate | undefined {
  try {
    const certificate = new X509Certificate(readFileSync(files.cert));
    return certificate.checkPrivateKey(createPrivateKey(readFileSync(files.key))) ? certificate : undefined;
  } catch {
    return undefined;
  }
}

export function readKey(path: string): KeyObject | undefined {
  try {
    return createPrivateKey(readFileSync(path));
  } catch {
    return undefined;
  }
}

/** Makes the folders and sees that all can be written, before anything is asked of anybody. @throws MeshError JOIN-PERMISSION */
export async function makeRoom(stateDir: string, files: JoinFiles): Promise<void> {
  const config = dirname(files.config);
  await permitted(stateDir, async () => {
    if (!existsSync(stateDir)) await makePrivateFolder(stateDir);
    await makePrivateFolder(files.pki);
  });
  await permitted(config, async () => {
    await mkdir(config, { recursive: true, mode: 0o755 });
    if (!(await lstat(config)).isDirectory()) throw new Error('it is not a folder');
  });
  for (const folder of [stateDir, files.pki, config]) await permitted(folder, () => access(folder, constants.W_OK));
}

const LEFTOVER = /^\.(pending\.(key|json)|agent\.(key|crt)|ca\.crt)\.[0-9a-f]{8}$/;

/** Removes what a crash left half written: there may be a key in it. @throws MeshError JOIN-PERMISSION */
export async function removeLeftovers(files: Pick<JoinFiles, 'pki'>): Promise<void> {
  if (!existsSync(files.pki)) return;
  const names = await permitted(files.pki, () => readdir(files.pki));
  for (const name of names) if (LEFTOVER.test(name)) await removeFile(join(files.pki, name));
}

/** @throws MeshError JOIN-PERMISSION, PKI-FILE */
export function writePrivate(path: string, content: string): Promise<void> {
  return permitted(path, () => writeFileSafely(path, content));
}

/** What others on the machine may read. @throws MeshError JOIN-PERMISSION, PKI-FILE */
export function writePublic(path: string, content: string): Promise<void> {
  return permitted(path, () => writeFileSafely(path, content, 0o644));
}

/** One that is not there is fine. @throws MeshError JOIN-PERMISSION */
export function removeFile(path: string): Promise<void> {
  return permitted(path, () => rm(path, { force: true }));
}

/** A missing right is a trouble of its own: root has it. */
async function permitted<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const reason = cause instanceof MeshError && cause.cause !== undefined ? cause.cause : cause;
    const code = (reason as NodeJS.ErrnoException).code ?? '';
    if (['EACCES', 'EPERM', 'EROFS'].includes(code))
      throw new MeshError('JOIN-PERMISSION', messageOf(reason), { place, cause });
    if (cause instanceof MeshError) throw cause;
    throw new MeshError('PKI-FILE', messageOf(cause), { place, cause });
  }
}
