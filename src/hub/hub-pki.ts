import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
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
  /** PEM of the certificate that this hub shows to machines, and of its key. They change when they are renewed. */
  readonly server: { readonly certificate: string; readonly key: string };
  readonly folder: HubFolder;
  /** When which certificate ends: `ca`, `server`, `admin`, `peer`. */
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
  readonly name: 'server' | 'admin' | 'peer';
  readonly commonName: string;
  /** Of a server; a client has none. */
  readonly names?: readonly string[];
  readonly client?: true;
}

function leaves(config: HubConfig): readonly Leaf[] {
  const { name } = config.cluster;
  const hosts = [config.listen.etcd, config.listen.enrolment]
    .map((listen) => hostAndPort(listen).host)
    .filter((host) => host !== '0.0.0.0' && host !== '::');
  const names = [...new Set([...config.names, ...hosts, ...CILIUM_NAMES, ...LOCAL_NAMES])];
  const peer = hostAndPort(config.etcd.peer).host;
  return [
    { name: 'server', commonName: 'mesh-agent hub', names },
    { name: 'admin', commonName: `admin-${name}` },
    { name: 'peer', commonName: peerName(name), names: [peer], client: true },
  ];
}

/** Makes all keys and certificates of a new hub. @throws MeshError PKI-FILE */
export async function createHubPki(folder: HubFolder, config: HubConfig): Promise<void> {
  await makePrivateFolder(folder.pki);
  const { certificate, key } = createAuthority(`mesh-agent hub ${config.cluster.name}`);
  await writeFileSafely(folder.ca.key, key);
  await writeFileSafely(folder.ca.cert, certificate);
  const ca = openAuthority({ certificate, key });
  for (const leaf of leaves(config)) {
    const files = folder[leaf.name];
    await writeFileSafely(files.key, privateKeyPem(generateKey()));
    await issue(ca, leaf, files);
  }
}

/** Reads them, and renews what is due. @throws MeshError HUB-FILES, PKI-CA, PKI-FILE */
export async function openHubPki(folder: HubFolder, config: HubConfig): Promise<HubPki> {
  const ca = openAuthority({ certificate: read(folder.ca.cert), key: read(folder.ca.key) });
  const pki = new LoadedPki(ca, folder, config);
  await pki.renew();
  return pki;
}

class LoadedPki implements HubPki {
  readonly ca: CertificateAuthority;
  readonly folder: HubFolder;
  readonly #config: HubConfig;

  constructor(ca: CertificateAuthority, folder: HubFolder, config: HubConfig) {
    this.ca = ca;
    this.folder = folder;
    this.#config = config;
  }

  get server(): { readonly certificate: string; readonly key: string } {
    return { certificate: read(this.folder.server.cert), key: read(this.folder.server.key) };
  }

  get expiry(): Readonly<Record<string, Date>> {
    const of = (name: Leaf['name']): Date => certificateIn(this.folder[name].cert).validToDate;
    return { ca: this.ca.notAfter, server: of('server'), admin: of('admin'), peer: of('peer') };
  }

  async renew(): Promise<readonly string[]> {
    const renewed: string[] = [];
    for (const leaf of leaves(this.#config)) {
      const files = this.folder[leaf.name];
      if (!this.#due(leaf, files)) continue;
      await issue(this.ca, leaf, files);
      renewed.push(leaf.name);
    }
    return renewed;
  }

  #due(leaf: Leaf, files: KeyFiles): boolean {
    // A key that is missing or broken is a fault to be seen, a certificate is made in a moment.
    const key = keyIn(files.key);
    let certificate: X509Certificate;
    try {
      certificate = certificateIn(files.cert);
    } catch {
      return true;
    }
    const [from, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
    const late = Date.now() > to - (to - from) / 3 && certificate.validToDate < this.ca.notAfter;
    const issuer = new X509Certificate(this.ca.certificate);
    const ours = certificate.verify(issuer.publicKey) && certificate.checkPrivateKey(key);
    return late || !ours || !names(certificate, leaf);
  }
}

/** Whether the certificate has the common name and every name of the server. */
function names(certificate: X509Certificate, { commonName, names: wanted = [] }: Leaf): boolean {
  if (certificate.subject !== `CN=${commonName}`) return false;
  const shown = certificate.subjectAltName ?? '';
  return wanted.every((name) =>
    name.startsWith('*.')
      ? shown.includes(`DNS:${name}`)
      : certificate.checkHost(name) !== undefined || certificate.checkIP(name) !== undefined,
  );
}

async function issue(ca: CertificateAuthority, leaf: Leaf, files: KeyFiles): Promise<void> {
  const { commonName, names: wanted } = leaf;
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
