import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream, existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { copyFile, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { MeshError, messageOf } from '../core/errors.ts';
import { build } from '../host/build.ts';
import { CommandError, run } from '../host/command.ts';
import { Member } from '../kvstore/maintenance.ts';
import { openAuthority } from '../pki/authority.ts';
import { makePrivateFolder, writeFileSafely } from '../pki/files.ts';
import { type HubConfig, parseHubConfig } from './config.ts';
import { newToken, saveDataSet } from './etcd/data-set.ts';
import { type HubFolder, hubFolder, hubFolderAt } from './folder.ts';
import { storeAccess } from './hub-store.ts';
import { lockHub } from './lock.ts';

/**
 * A backup is a tar file: `manifest.json`, `hub.yaml`, `pki/*`, and `snapshot.db`, a snapshot of the own etcd as etcdctl
 * writes it. A given etcd is backed up by its own administrators. It holds the key of the authority: whoever has the file
 * can let machines in.
 */
interface Manifest {
  readonly format: 1;
  readonly createdAt: string;
  readonly version: string;
  readonly cluster: HubConfig['cluster'];
  /** SHA-256 of every other file, hexadecimal. */
  readonly files: Readonly<Record<string, string>>;
}

const SNAPSHOT = 'snapshot.db';
const NAMES = /^(hub\.yaml|snapshot\.db|pki\/(ca|internal|server|admin|etcd|peer)\.(key|crt))$/;
const PROGRAM_MS = 600_000;
const MAX_MANIFEST = 1 << 20;

export interface BackupReport {
  readonly file: string;
  readonly cluster: HubConfig['cluster'];
  readonly createdAt: string;
  /** Bytes of the snapshot; 0 for a given etcd. */
  readonly snapshot: number;
}

/** Writes a backup while the hub runs. @throws MeshError HUB-BACKUP, HUB-FILES, KVS-*, PKI-FILE */
export async function backupHub(options: {
  readonly config: HubConfig;
  readonly folder: HubFolder;
  readonly file: string;
}): Promise<BackupReport> {
  const { config, folder, file } = options;
  const stage = join(folder.path, `.backup-${randomBytes(4).toString('hex')}`);
  const beside = `${file}.${randomBytes(4).toString('hex')}`;
  try {
    await makePrivateFolder(join(stage, 'pki'));
    const names = ['hub.yaml', ...readdirSync(folder.pki).map((name) => `pki/${name}`)].filter((name) =>
      NAMES.test(name),
    );
    for (const name of names) await copyFile(join(folder.path, name), join(stage, name));
    const own = config.etcd.endpoints.length === 0;
    if (own) names.push(SNAPSHOT);
    const snapshot = own ? await saveSnapshot(config, folder, join(stage, SNAPSHOT)) : 0;
    const files: Record<string, string> = {};
    for (const name of names) files[name] = await digestOf(join(stage, name));
    const createdAt = new Date().toISOString();
    const manifest: Manifest = { format: 1, createdAt, version: build.version, cluster: config.cluster, files };
    await writeFileSafely(join(stage, 'manifest.json'), `${JSON.stringify(manifest, undefined, 2)}\n`);
    // Made before tar writes into it, so that it is never open to others.
    await (await open(beside, 'wx', 0o600)).close();
    const owner = ['--owner=0', '--group=0', '--format=ustar'];
    await tar([...owner, '-C', stage, '-cf', beside, 'manifest.json', ...names]);
    await sync(beside);
    await rename(beside, file);
    await sync(dirname(file));
    return { file, cluster: config.cluster, createdAt, snapshot };
  } catch (cause) {
    if (cause instanceof MeshError && !(cause instanceof CommandError)) throw cause;
    throw new MeshError('HUB-BACKUP', messageOf(cause), { place: file, cause });
  } finally {
    await rm(stage, { recursive: true, force: true });
    await rm(beside, { force: true });
  }
}

/**
 * Makes a hub from a backup, with a data set of its own: clusters and machines list everything again. A hub that is there is
 * moved aside with `force`, never removed.
 * @returns also where the former hub is
 * @throws ConfigErrors; MeshError HUB-BACKUP, HUB-EXISTS, HUB-RUNNING, PKI-CA
 */
export async function restoreHub(options: {
  readonly stateDir: string;
  readonly file: string;
  readonly force?: boolean;
}): Promise<BackupReport & { readonly replaced: string | undefined }> {
  const { stateDir, file } = options;
  const folder = hubFolder(stateDir);
  const present = existsSync(folder.path);
  const unlock = present ? lockHub(folder) : undefined;
  const suffix = randomBytes(4).toString('hex');
  const stage = hubFolderAt(join(stateDir, `.restore-${suffix}`));
  try {
    if (present && readdirSync(folder.path).some((name) => name !== 'lock') && options.force !== true)
      throw new MeshError('HUB-EXISTS', '', { place: folder.path });
    await makePrivateFolder(stage.path);
    const { manifest, config } = await unpack(file, stage, folder);
    const snapshot = join(stage.path, SNAPSHOT);
    const size = existsSync(snapshot) ? lstatSync(snapshot).size : 0;
    if (size > 0) await restoreSnapshot(config, stage, snapshot);
    await rm(snapshot, { force: true });
    await rm(join(stage.path, 'manifest.json'), { force: true });
    await makePrivateFolder(stage.packages);
    const replaced = present ? join(stateDir, `hub.replaced-${suffix}`) : undefined;
    if (replaced !== undefined) await rename(folder.path, replaced);
    await rename(stage.path, folder.path);
    await sync(stateDir);
    const { cluster, createdAt } = manifest;
    return { file, cluster, createdAt, snapshot: size, replaced };
  } catch (cause) {
    if (cause instanceof CommandError) throw new MeshError('HUB-BACKUP', cause.message, { place: file, cause });
    throw cause;
  } finally {
    await rm(stage.path, { recursive: true, force: true });
    unlock?.();
  }
}

async function unpack(
  file: string,
  stage: HubFolder,
  target: HubFolder,
): Promise<{ manifest: Manifest; config: HubConfig }> {
  const bad = (detail: string, cause?: unknown): MeshError =>
    new MeshError('HUB-BACKUP', detail, { place: file, cause });
  if (!existsSync(file)) throw bad('there is no such file');
  await tar(['--no-same-owner', '--no-same-permissions', '-C', stage.path, '-xf', file]);
  const manifest = readManifest(join(stage.path, 'manifest.json'), bad);
  for (const [name, digest] of Object.entries(manifest.files)) {
    const path = join(stage.path, name);
    if (!NAMES.test(name) || lstatSync(path, { throwIfNoEntry: false })?.isFile() !== true)
      throw bad(`${JSON.stringify(name)} is not in it`);
    if ((await digestOf(path)) !== digest) throw bad(`${name} was changed`);
    const handle = await open(path, 'r');
    await handle.chmod(0o600);
    await handle.close();
  }
  await makePrivateFolder(stage.pki);
  for (const name of ['hub.yaml', 'pki/ca.key', 'pki/ca.crt', 'pki/internal.key', 'pki/internal.crt'])
    if (manifest.files[name] === undefined) throw bad(`${name} is missing`);
  const config = parseHubConfig(readFileSync(stage.config, 'utf8'), target.config);
  for (const { cert, key } of [stage.ca, stage.internal])
    openAuthority({ certificate: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') });
  if (config.etcd.endpoints.length === 0 && manifest.files[SNAPSHOT] === undefined) throw bad(`${SNAPSHOT} is missing`);
  return { manifest, config };
}

function readManifest(path: string, bad: (detail: string, cause?: unknown) => MeshError): Manifest {
  try {
    const found = lstatSync(path);
    if (!found.isFile() || found.size > MAX_MANIFEST) throw new Error('it has no manifest');
    const manifest = JSON.parse(readFileSync(path, 'utf8')) as Partial<Manifest>;
    const { files, cluster, createdAt } = manifest;
    if (manifest.format !== 1) throw new Error(`its format ${JSON.stringify(manifest.format)} is unknown`);
    const fine = typeof files === 'object' && files !== null && typeof createdAt === 'string';
    if (!fine || typeof cluster?.name !== 'string') throw new Error('its manifest is not complete');
    return manifest as Manifest;
  } catch (cause) {
    throw bad(`it is no backup of a hub: ${messageOf(cause)}`, cause);
  }
}

/** @returns its size */
async function saveSnapshot(config: HubConfig, folder: HubFolder, path: string): Promise<number> {
  const access = storeAccess(config, folder);
  const member = await Member.connect(access.endpoints[0] ?? '', access, new AbortController().signal);
  try {
    const to = createWriteStream(path, { mode: 0o600, flags: 'wx' });
    const failed = once(to, 'error').then(([error]) => {
      throw error as Error;
    });
    failed.catch(() => {});
    for await (const part of member.snapshot()) {
      if (!to.write(part)) await Promise.race([once(to, 'drain'), failed]);
    }
    to.end();
    await Promise.race([once(to, 'close'), failed]);
    return lstatSync(path).size;
  } finally {
    member.close();
  }
}

/** With a fresh token the data set has an id of its own (kvstore specification 11.1). */
async function restoreSnapshot(config: HubConfig, stage: HubFolder, snapshot: string): Promise<void> {
  const token = newToken();
  const { name } = config.cluster;
  const peer = `https://${config.etcd.peer}`;
  const place = ['--data-dir', stage.etcd, '--name', name, '--initial-advertise-peer-urls', peer];
  const cluster = ['--initial-cluster', `${name}=${peer}`, '--initial-cluster-token', token];
  await run('etcdctl', ['snapshot', 'restore', snapshot, ...place, ...cluster], { timeoutMs: PROGRAM_MS });
  await saveDataSet(stage, { token });
}

async function tar(args: readonly string[]): Promise<void> {
  await run('tar', args, { timeoutMs: PROGRAM_MS });
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
