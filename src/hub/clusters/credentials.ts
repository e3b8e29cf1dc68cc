import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { EtcdOptions } from '../../kvstore/etcd-config.ts';
import { makePrivateFolder, writeFileSafely } from '../../pki/files.ts';
import type { ClusterAccess } from './cluster-document.ts';

/** How folders of clusters begin that are only being tried: no cluster has such a name. */
export const PROBE = '.probe-';

/**
 * Certificates of remote clusters as files, for a client that reads them at every connect. They are copies: what is in the
 * store counts.
 */
export class Credentials {
  readonly #folder: string;

  constructor(hubFolder: string) {
    this.#folder = join(hubFolder, 'clusters');
  }

  /** @throws MeshError PKI-FILE */
  async write(name: string, access: ClusterAccess): Promise<EtcdOptions> {
    const folder = join(this.#folder, name);
    await makePrivateFolder(folder);
    const { endpoints, ca, cert, key, username, password } = access;
    const file = async (base: string, pem: string | undefined): Promise<string | undefined> => {
      if (pem === undefined) return undefined;
      await writeFileSafely(join(folder, base), pem);
      return join(folder, base);
    };
    const [caFile, certFile, keyFile] = [
      await file('ca.crt', ca),
      await file('client.crt', cert),
      await file('client.key', key),
    ];
    return {
      endpoints,
      ...(caFile !== undefined && { ca: caFile }),
      ...(certFile !== undefined && { cert: certFile }),
      ...(keyFile !== undefined && { key: keyFile }),
      ...(username !== undefined && { username }),
      ...(password !== undefined && { password }),
    };
  }

  async remove(name: string): Promise<void> {
    await rm(join(this.#folder, name), { recursive: true, force: true });
  }

  /** Removes those of clusters that are not connected any more. */
  async keepOnly(names: ReadonlySet<string>): Promise<void> {
    const found = await readdir(this.#folder).catch(() => []);
    for (const name of found) if (!names.has(name) && !name.startsWith(PROBE)) await this.remove(name);
  }

  /** Removes what was being tried when an earlier process ended. */
  async removeProbes(): Promise<void> {
    const found = await readdir(this.#folder).catch(() => []);
    for (const name of found) if (name.startsWith(PROBE)) await this.remove(name);
  }
}
