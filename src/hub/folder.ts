import { join } from 'node:path';

export interface KeyFiles {
  readonly key: string;
  readonly cert: string;
}

/** Where the hub keeps what (docs/hub.md). */
export interface HubFolder {
  readonly path: string;
  readonly config: string;
  readonly pki: string;
  readonly ca: KeyFiles;
  readonly server: KeyFiles;
  readonly admin: KeyFiles;
  /** The authority that etcd trusts, and what it signed for the own one: etcd itself, and its peers. */
  readonly internal: KeyFiles;
  readonly etcdServer: KeyFiles;
  readonly peer: KeyFiles;
  /** The data of the own etcd, and what the hub remembers of them. */
  readonly etcd: string;
  readonly dataSet: string;
  readonly etcdPid: string;
  readonly packages: string;
}

export const HUB_FOLDER = 'hub';

/** The hub's folder in the folder of the state. */
export function hubFolder(stateDir: string): HubFolder {
  return hubFolderAt(join(stateDir, HUB_FOLDER));
}

/** The same at another place. */
export function hubFolderAt(path: string): HubFolder {
  const pki = join(path, 'pki');
  const files = (name: string): KeyFiles => ({ key: join(pki, `${name}.key`), cert: join(pki, `${name}.crt`) });
  return {
    path,
    config: join(path, 'hub.yaml'),
    pki,
    ca: files('ca'),
    server: files('server'),
    admin: files('admin'),
    internal: files('internal'),
    etcdServer: files('etcd'),
    peer: files('peer'),
    etcd: join(path, 'etcd'),
    dataSet: join(path, 'data-set.json'),
    etcdPid: join(path, 'etcd.pid'),
    packages: join(path, 'packages'),
  };
}
