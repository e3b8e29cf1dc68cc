import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError, messageOf } from '../../core/errors.ts';
import { writeFileSafely } from '../../pki/files.ts';
import type { HubFolder } from '../folder.ts';

/** What the hub remembers of the data of its own etcd. */
export interface DataSetRecord {
  /** `--initial-cluster-token`: a fresh one for every data set gives it an id of its own (kvstore specification 11.1). */
  readonly token: string;
  /** Once it has answered. */
  readonly clusterId?: string;
}

export function newToken(): string {
  return randomBytes(16).toString('hex');
}

/**
 * The record, or a new one for a hub whose etcd has never run.
 * @throws MeshError HUB-ETCD-DATA when the data are gone: an empty etcd in their place would make every cluster forget every
 * machine, while nothing at all keeps them as they are
 */
export async function openDataSet(folder: HubFolder): Promise<DataSetRecord> {
  const record = readRecord(folder.dataSet);
  const present = existsSync(join(folder.etcd, 'member', 'wal'));
  if (record === undefined) {
    if (present)
      throw new MeshError('HUB-ETCD-DATA', 'there are data, but the hub knows nothing of them', { place: folder.etcd });
    const fresh: DataSetRecord = { token: newToken() };
    await saveDataSet(folder, fresh);
    return fresh;
  }
  if (!present && record.clusterId !== undefined)
    throw new MeshError('HUB-ETCD-DATA', 'the folder is empty', { place: folder.etcd });
  return record;
}

export function saveDataSet(folder: HubFolder, record: DataSetRecord): Promise<void> {
  return writeFileSafely(folder.dataSet, `${JSON.stringify(record)}\n`);
}

function readRecord(path: string): DataSetRecord | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new MeshError('HUB-FILES', messageOf(cause), { place: path, cause });
  }
  try {
    const { token, clusterId } = JSON.parse(text) as Record<string, unknown>;
    if (typeof token !== 'string' || !/^[0-9a-f]{32}$/.test(token)) throw new Error('it has no token');
    return { token, ...(typeof clusterId === 'string' && { clusterId }) };
  } catch (cause) {
    throw new MeshError('HUB-FILES', messageOf(cause), { place: path, cause });
  }
}
