import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseDocument, visit } from 'yaml';
import { MeshError, messageOf } from '../../core/errors.ts';

/** How an API server is reached, and how we show who we are. */
export interface KubeAccess {
  /** Name of the context. */
  readonly context: string;
  /** `https://`, perhaps with a path; without a slash at its end. */
  readonly server: string;
  /** PEM. Without one the authorities of the system are trusted. */
  readonly ca: string | undefined;
  /** The name that the certificate must have, if not that of the server. */
  readonly serverName: string | undefined;
  readonly client: { readonly cert: string; readonly key: string } | undefined;
  readonly token: string | undefined;
}

const MAX_BYTES = 1 << 20;
/** What would start programs, or trust somebody who is not the server. */
const REFUSED_USER: Readonly<Record<string, string>> = {
  exec: 'plugins that are started (exec) are not: use a token file or a client certificate',
  'auth-provider': 'auth-provider is not: use a token file or a client certificate',
  username: 'passwords are not: use a token file or a client certificate',
  password: 'passwords are not: use a token file or a client certificate',
  as: 'acting as somebody else (as) is not',
  'as-uid': 'acting as somebody else (as-uid) is not',
  'as-groups': 'acting as somebody else (as-groups) is not',
};

type Fields = Readonly<Record<string, unknown>>;

/**
 * Reads a kubeconfig with all files that it names, by its current context; relative paths count from its folder. It is
 * read again for each connection, so that what is renewed in place is used.
 * @throws MeshError HUB-KUBE-CONFIG
 */
export async function loadKubeConfig(file: string): Promise<KubeAccess> {
  const text = await read(file, file);
  const content = readYaml(text, file);
  const root = mapOf(content, file, 'it');
  const context = textOf(root, 'current-context', file) ?? '';
  if (context === '') throw wrong(file, 'it has no current-context');
  const { cluster: clusterName, user: userName } = namesOf(named(root, 'contexts', { name: context, file }), file);
  const cluster = mapOf(named(root, 'clusters', { name: clusterName, file }).cluster, file, `cluster ${clusterName}`);
  const user =
    userName === '' ? {} : mapOf(named(root, 'users', { name: userName, file }).user ?? {}, file, `user ${userName}`);
  for (const [key, why] of Object.entries(REFUSED_USER))
    if (isGiven(user[key])) throw wrong(file, `user ${userName}: ${why} supported`);
  const reader = new Reader(file);
  const ca = await reader.content(cluster, 'certificate-authority');
  const client = await clientOf(reader, user, userName);
  return {
    context,
    server: serverOf(cluster, file),
    ca,
    serverName: textOf(cluster, 'tls-server-name', file),
    client,
    token: await tokenOf(reader, user),
  };
}

function readYaml(text: string, file: string): unknown {
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: false, logLevel: 'silent' });
  const [error] = document.errors;
  if (error !== undefined) throw wrong(file, `it is not valid YAML: ${error.message.slice(0, 200)}`);
  visit(document, {
    Alias: () => {
      // A way to make a small file a large one.
      throw wrong(file, 'references (*name) are not accepted');
    },
  });
  return document.toJS();
}

class Reader {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  /** `<key>-data` in base64, or else the file that `<key>` names. */
  async content(fields: Fields, key: string): Promise<string | undefined> {
    const data = textOf(fields, `${key}-data`, this.file);
    if (data !== undefined) {
      if (!/^[A-Za-z0-9+/\s]+={0,2}\s*$/.test(data)) throw wrong(this.file, `${key}-data is not base64`);
      return Buffer.from(data, 'base64').toString('utf8');
    }
    const path = textOf(fields, key, this.file);
    return path === undefined ? undefined : this.path(path, key);
  }

  path(path: string, key: string): Promise<string> {
    return read(resolve(dirname(this.file), path), this.file, key);
  }
}

async function clientOf(reader: Reader, user: Fields, name: string): Promise<KubeAccess['client']> {
  const [cert, key] = [await reader.content(user, 'client-certificate'), await reader.content(user, 'client-key')];
  if ((cert === undefined) !== (key === undefined))
    throw wrong(reader.file, `user ${name}: client-certificate and client-key come together`);
  return cert === undefined || key === undefined ? undefined : { cert, key };
}

async function tokenOf(reader: Reader, user: Fields): Promise<string | undefined> {
  // As the Kubernetes client does: the file wins, for it is the one that is renewed.
  const path = textOf(user, 'tokenFile', reader.file);
  const token = (
    path === undefined ? textOf(user, 'token', reader.file) : await reader.path(path, 'tokenFile')
  )?.trim();
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token))
    throw wrong(reader.file, 'the token has characters that none has');
  return token;
}

function serverOf(cluster: Fields, file: string): string {
  if (cluster['insecure-skip-tls-verify'] === true)
    throw wrong(file, 'insecure-skip-tls-verify is not supported: name the CA in certificate-authority');
  if (isGiven(cluster['proxy-url'])) throw wrong(file, 'proxy-url is not supported');
  const server = textOf(cluster, 'server', file) ?? '';
  const url = URL.canParse(server) ? new URL(server) : undefined;
  if (url?.protocol !== 'https:' || url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '')
    throw wrong(file, 'server must be an https:// URL');
  return `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
}

function named(root: Fields, list: string, { name, file }: { readonly name: string; readonly file: string }): Fields {
  const items: unknown = root[list];
  const found = Array.isArray(items) ? items.find((each: unknown) => isMap(each) && each.name === name) : undefined;
  if (found === undefined) throw wrong(file, `${list} has no ${JSON.stringify(name.slice(0, 100))}`);
  return found as Fields;
}

function namesOf(entry: Fields, file: string): { cluster: string; user: string } {
  const context = mapOf(entry.context, file, 'the context');
  return { cluster: textOf(context, 'cluster', file) ?? '', user: textOf(context, 'user', file) ?? '' };
}

async function read(path: string, file: string, key?: string): Promise<string> {
  const what = key === undefined ? '' : `${key}: `;
  try {
    const content = await readFile(path);
    if (content.length > MAX_BYTES) throw new Error(`more than ${MAX_BYTES} bytes`);
    return content.toString('utf8');
  } catch (error) {
    throw wrong(file, `${what}${messageOf(error)}`);
  }
}

function isMap(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null && value !== '';
}

function mapOf(value: unknown, file: string, what: string): Fields {
  if (!isMap(value)) throw wrong(file, `${what} is no map of keys`);
  return value;
}

function textOf(fields: Fields, key: string, file: string): string | undefined {
  const value = fields[key];
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'string') throw wrong(file, `${key} is no text`);
  return value;
}

function wrong(place: string, detail: string): MeshError {
  return new MeshError('HUB-KUBE-CONFIG', detail, { place });
}
