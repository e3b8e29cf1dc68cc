import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../../config/config.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { type EtcdOptions, readEtcdConfig } from '../../kvstore/etcd-config.ts';

/** A store that this machine is configured for. */
export interface ConfiguredStore {
  /** The cluster, by its file; that of the joined one as far as it is known, else `kvstore`. */
  readonly name: string;
  readonly joined: boolean;
  /** Undefined when its configuration cannot be read: `problem` says why. */
  readonly etcd: EtcdOptions | undefined;
  readonly problem?: MeshError;
}

const MAX_STORES = 64;
const MAX_BYTES = 1 << 20;

/** The store to join, and one for each file of a remote cluster. Never throws. */
export async function configuredStores(config: Config, joinedName = 'kvstore'): Promise<ConfiguredStore[]> {
  const { kvstore, clustermesh } = config;
  const stores: ConfiguredStore[] = [];
  if (kvstore.config !== undefined)
    stores.push(await fromFile({ file: kvstore.config, name: joinedName, joined: true }));
  else if (kvstore.endpoints.length > 0) stores.push({ name: joinedName, joined: true, etcd: kvstore });
  for (const name of (await names(clustermesh)).slice(0, MAX_STORES)) {
    const file = join(clustermesh, name);
    if (name !== joinedName && (await isClusterFile(file))) stores.push(await fromFile({ file, name, joined: false }));
  }
  return stores;
}

async function fromFile({ file, ...store }: { file: string; name: string; joined: boolean }): Promise<ConfiguredStore> {
  try {
    return { ...store, etcd: await readEtcdConfig(file) };
  } catch (error) {
    const problem = error instanceof MeshError ? error : new MeshError('KVS-FILE', messageOf(error), { place: file });
    return { ...store, etcd: undefined, problem };
  }
}

/** Certificates and keys may lie beside the files (kvstore specification 4.1). */
async function isClusterFile(file: string): Promise<boolean> {
  try {
    const found = await stat(file);
    return found.isFile() && found.size <= MAX_BYTES && /endpoints:/.test(await readFile(file, 'latin1'));
  } catch {
    return false;
  }
}

async function names(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).filter((name) => !name.startsWith('.')).sort();
  } catch {
    return [];
  }
}
