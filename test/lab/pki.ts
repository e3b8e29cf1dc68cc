import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { host } from './namespace.ts';

/** Paths of a certificate, its key, and the CA that the *other* side of the connection is checked with. */
export interface CertificateFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface CertificateRequest {
  readonly commonName: string;
  /** DNS names and addresses. */
  readonly names?: readonly string[];
  /** `past`: expired yesterday. `future`: valid from tomorrow. */
  readonly valid?: 'now' | 'past' | 'future';
  /** Seconds from now until it expires, instead of half the life of the authority; for `now` only. */
  readonly lifeSeconds?: number;
}

/** A certificate authority of a test, made with openssl in a folder of its own. Elliptic curve keys: 5 ms each. */
export class Pki {
  readonly folder: string;
  readonly ca: string;
  readonly caKey: string;
  readonly #days: number;
  #count = 0;

  /** `days`: how long the authority is good; what it signs is good for half of that, unless it is told otherwise. */
  constructor(name = 'test-ca', days = 2) {
    this.#days = days;
    this.folder = mkdtempSync(join(tmpdir(), 'mesh-pki-'));
    this.ca = join(this.folder, 'ca.crt');
    this.caKey = join(this.folder, 'ca.key');
    writeFileSync(join(this.folder, 'ca.conf'), CA_CONFIGURATION.replaceAll('FOLDER', this.folder));
    writeFileSync(join(this.folder, 'index.txt'), '');
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', this.caKey];
    host('openssl', 'req', '-x509', ...key, '-out', this.ca, '-subj', `/CN=${name}`, '-days', String(days));
  }

  /** A server certificate for `localhost` and 127.0.0.1, or for the names that are given. */
  server(request: Partial<CertificateRequest> = {}): CertificateFiles {
    return this.issue({ commonName: 'etcd', names: ['localhost', '127.0.0.1', '::1'], ...request });
  }

  /** A client certificate: its common name is the user in etcd's access control. */
  client(commonName: string, request: Partial<CertificateRequest> = {}): CertificateFiles {
    return this.issue({ commonName, ...request });
  }

  issue(request: CertificateRequest): CertificateFiles {
    const base = join(this.folder, `${request.commonName.replace(/[^a-zA-Z0-9.-]/g, '_')}-${this.#count++}`);
    const files = { ca: this.ca, cert: `${base}.crt`, key: `${base}.key` };
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    const subject = ['-subj', `/CN=${request.commonName}`];
    host('openssl', 'req', '-new', ...curve, '-keyout', files.key, '-out', `${base}.csr`, ...subject);
    const names = (request.names ?? []).map((name) => (isIP(name) === 0 ? `DNS:${name}` : `IP:${name}`));
    const extensions = ['basicConstraints=critical,CA:FALSE', 'extendedKeyUsage=serverAuth,clientAuth'];
    if (names.length > 0) extensions.push(`subjectAltName=${names.join(',')}`);
    writeFileSync(`${base}.ext`, `${extensions.join('\n')}\n`);
    const [from, to] = validity(request, this.#days / 2);
    const dates = ['-startdate', openSslTime(from), '-enddate', openSslTime(to)];
    const configuration = ['-config', join(this.folder, 'ca.conf'), '-extfile', `${base}.ext`];
    host('openssl', 'ca', '-batch', '-notext', ...configuration, ...dates, '-in', `${base}.csr`, '-out', files.cert);
    return files;
  }

  /** Puts one certificate's content where another one is: a rotation in place. */
  replace(files: CertificateFiles, by: CertificateFiles): void {
    writeFileSync(files.key, readFileSync(by.key));
    writeFileSync(files.cert, readFileSync(by.cert));
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const DAY = 86_400_000;

function validity({ valid = 'now', lifeSeconds }: CertificateRequest, days: number): [number, number] {
  const now = Date.now();
  if (valid === 'past') return [now - 2 * DAY, now - DAY];
  if (valid === 'future') return [now + DAY, now + 2 * DAY];
  return [now - 3_600_000, lifeSeconds === undefined ? now + days * DAY : now + lifeSeconds * 1000];
}

function openSslTime(ms: number): string {
  return `${new Date(ms).toISOString().replace(/[-:T]/g, '').slice(0, 14)}Z`;
}

const CA_CONFIGURATION = `
[ca]
default_ca = test
[test]
database = FOLDER/index.txt
new_certs_dir = FOLDER
certificate = FOLDER/ca.crt
private_key = FOLDER/ca.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
`;
