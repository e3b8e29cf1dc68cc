import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { MeshError, messageOf } from '../core/errors.ts';
import { type CertificateAuthority, createAuthority, openAuthority } from '../pki/authority.ts';
import { makePrivateFolder, writeFileSafely } from '../pki/files.ts';
import { generateKey, privateKeyPem } from '../pki/keys.ts';
import type { HubConfig } from './config.ts';
import { hostAndPort, peerName } from './etcd/arguments.ts';
import type { HubFolder, KeyFiles } from './folder.ts';

/** Keys and certificates of the hub. */
export interface HubPki {
  readonly ca: CertificateAuthority;
  /** What etcd trusts, the own or a given one; nothing that it signs leaves this machine. */
  readonly internal: CertificateAuthority;
  /** PEM of the certificate that this hub shows to machines, and of its key. They change when they are renewed. */
  readonly server: { readonly certificate: string; readonly key: string };
  readonly folder: HubFolder;
  /** When which certificate ends: `ca`, `internal`, `server`, `admin`, `etcd`, `peer`. */
  readonly expiry: Readonly<Record<string, Date>>;
  /** Renews what has less than a third of its life left, or other names than it should. @returns what was renewed */
  renew(): Promise<readonly string[]>;
}

const DAY_SECONDS = 86_400;
const LIFE_SECONDS = 365 * DAY_SECONDS;
/** Names under which a stock Cilium reaches a clustermesh-apiserver (kvstore specification 7.2). */
const CILIUM_NAMES = ['*.mesh.cilium.io', 'clustermesh-apiserver.cilium.io'];
const LOCAL_NAMES = ['localhost', '127.0.0.1', '::1'];

interface Leaf {
  readonly name: 'server' | 'admin' | 'etcd' | 'peer';
  readonly files: KeyFiles;
  readonly issuer: 'ca' | 'internal';
  readonly commonName: string;
  /** Of a server; a client has none. */
  readonly names?: readonly string[];
  readonly client?: true;
}

function leaves(folder: HubFolder, config: HubConfig): readonly Leaf[] {
  const { name } = config.cluster;
  const hosts = [config.listen.etcd, config.listen.enrolment]
    .map((listen) => hostAndPort(listen).host)
    .filter((host) => host !== '0.0.0.0' && host !== '::');
  const names = [...new Set([...config.names, ...hosts, ...CILIUM_NAMES, ...LOCAL_NAMES])];
  const [client, peer] = [hostAndPort(config.etcd.client).host, hostAndPort(config.etcd.peer).host];
  return [
    { name: 'server', files: folder.server, issuer: 'ca', commonName: 'mesh-agent hub', names },
    { name: 'admin', files: folder.admin, issuer: 'internal', commonName: `admin-${name}` },
    { name: 'etcd', files: folder.etcdServer, issuer: 'internal', commonName: 'etcd', names: [client] },
    { name: 'peer', files: folder.peer, issuer: 'internal', commonName: peerName(name), names: [peer], client: true },
  ];
}

/** Makes all keys and certificates of a new hub. @throws MeshError PKI-FILE */
export async function createHubPki(folder: HubFolder, config: HubConfig): Promise<void> {
  await makePrivateFolder(folder.pki);
  const authorities = {
    ca: await makeAuthority(folder.ca, `mesh-agent hub ${config.cluster.name}`),
    internal: await makeAuthority(folder.internal, `mesh-agent hub ${config.cluster.name} internal`),
  };
  for (const leaf of leaves(folder, config)) {
    await writeFileSafely(leaf.files.key, privateKeyPem(generateKey()));
    await issue(authorities[leaf.issuer], leaf);
  }
}

async function makeAuthority(files: KeyFiles, commonName: string): Promise<CertificateAuthority> {
  const pems = createAuthority(commonName);
  await writeFileSafely(files.key, pems.key);
  await writeFileSafely(files.cert, pems.certificate);
  return openAuthority(pems);
}

/** Reads them, and renews what is due. @throws MeshError HUB-FILES, PKI-CA, PKI-FILE */
export async function openHubPki(folder: HubFolder, config: HubConfig): Promise<HubPki> {
  const open = ({ cert, key }: KeyFiles): CertificateAuthority =>
    openAuthority({ certificate: read(cert), key: read(key) });
  const pki = new LoadedPki({ ca: open(folder.ca), internal: open(folder.internal) }, folder, config);
  await pki.renew();
  return pki;
}

class LoadedPki implements HubPki {
  readonly ca: CertificateAuthority;
  readonly internal: CertificateAuthority;
  readonly folder: HubFolder;
  readonly #leaves: readonly Leaf[];

  constructor(
    authorities: { readonly ca: CertificateAuthority; readonly internal: CertificateAuthority },
    folder: HubFolder,
    config: HubConfig,
  ) {
    this.ca = authorities.ca;
    this.internal = authorities.internal;
    this.folder = folder;
    this.#leaves = leaves(folder, config);
  }

  get server(): { readonly certificate: string; readonly key: string } {
    return { certificate: read(this.folder.server.cert), key: read(this.folder.server.key) };
  }

  get expiry(): Readonly<Record<string, Date>> {
    const own = this.#leaves.map(({ name, files }) => [name, certificateIn(files.cert).validToDate] as const);
    return { ca: this.ca.notAfter, internal: this.internal.notAfter, ...Object.fromEntries(own) };
  }

  async renew(): Promise<readonly string[]> {
    const renewed: string[] = [];
    for (const leaf of this.#leaves) {
      if (!this.#due(leaf)) continue;
      await issue(this[leaf.issuer], leaf);
      renewed.push(leaf.name);
    }
    return renewed;
  }

  #due(leaf: Leaf): boolean {
    const { files, issuer } = leaf;
    // A key that is missing or broken is a fault to be seen, a certificate is made in a moment.
    const key = keyIn(files.key);
    let certificate: X509Certificate;
    try {
      certificate = certificateIn(files.cert);
    } catch {
      return true;
    }
    const [from, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
    const late = Date.now() > to - (to - from) / 3 && certificate.validToDate < this[issuer].notAfter;
    const authority = new X509Certificate(this[issuer].certificate);
    const ours = certificate.verify(authority.publicKey) && certificate.checkPrivateKey(key);
    return late || !ours || !names(certificate, leaf);
  }
}

/** Whether the certificate has the common name and every name of the server. */
function names(certificate: X509Certificate, { commonName, names: wanted = [] }: Leaf): boolean {
  if (certificate.subject !== `CN=${commonName}`) return false;
  const shown = certificate.subjectAltName ?? '';
  return wanted.every((name) => {
    if (isIP(name) !== 0) return certificate.checkIP(name) !== undefined;
    return name.startsWith('*.') ? shown.includes(`DNS:${name}`) : certificate.checkHost(name) !== undefined;
  });
}

async function issue(ca: CertificateAuthority, leaf: Leaf): Promise<void> {
  const { commonName, names: wanted, files } = leaf;
  const request = { commonName, publicKey: keyIn(files.key), seconds: LIFE_SECONDS };
  const issued =
    wanted === undefined
      ? ca.issueClient(request)
      : ca.issueServer({ ...request, names: wanted, client: leaf.client === true });
  await writeFileSafely(files.cert, issued.pem);
}

function keyIn(path: string) {
  try {
    return createPrivateKey(read(path));
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    // The reason could quote the key.
    throw new MeshError('HUB-FILES', 'there is no PEM private key in it', { place: path });
  }
}

function certificateIn(path: string): X509Certificate {
  try {
    return new X509Certificate(read(path));
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    throw new MeshError('HUB-FILES', messageOf(cause), { place: path, cause });
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new MeshError('HUB-FILES', messageOf(cause), { place: path, cause });
  }
}
