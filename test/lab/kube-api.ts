import { readFileSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { type CertificateFiles, Pki } from './pki.ts';

export interface KubeObject {
  readonly apiVersion?: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: object;
    readonly [key: string]: unknown;
  };
  readonly [key: string]: unknown;
}

interface Event {
  readonly version: number;
  readonly plural: string;
  readonly line: string;
}

interface Watcher {
  readonly plural: string;
  readonly answer: ServerResponse;
}

const PLURALS: Readonly<Record<string, string>> = {
  CiliumNetworkPolicy: 'cilium.io/v2/ciliumnetworkpolicies',
  CiliumClusterwideNetworkPolicy: 'cilium.io/v2/ciliumclusterwidenetworkpolicies',
  NetworkPolicy: 'networking.k8s.io/v1/networkpolicies',
  CiliumExternalWorkload: 'cilium.io/v2/ciliumexternalworkloads',
};

const TOKEN = 'a-token-of-the-lab';

/**
 * What a Kubernetes API server says to those who list and watch, over TLS with certificates, and everything that it may do to
 * them: pages, bookmarks, versions that are too old, connections that break anywhere.
 */
export class KubeApi {
  readonly pki = new Pki('kube-ca');
  /** Requests as `list <plural>` and `watch <plural> <version>`. */
  readonly asked: string[] = [];
  /** Objects of a page, whatever was asked for. */
  pageSize = 1000;
  /** Of the events that are written one by one; 0: as a whole. */
  chunkBytes = 0;
  /** What every request is answered with, or every list, instead. */
  broken: ((answer: ServerResponse) => void) | undefined;
  brokenList: ((answer: ServerResponse) => void) | undefined;
  /** Before each page is sent. */
  onPage: (() => void) | undefined;
  readonly missing = new Set<string>();
  readonly #objects = new Map<string, string>();
  readonly #events: Event[] = [];
  readonly #watchers = new Set<Watcher>();
  readonly #sockets = new Set<TLSSocket>();
  readonly #files: CertificateFiles;
  #server: Server | undefined;
  #port = 0;
  #version = 100;
  #oldest = 0;

  constructor() {
    this.#files = this.pki.server({ commonName: 'kube-apiserver' });
  }

  static async start(): Promise<KubeApi> {
    const api = new KubeApi();
    await api.open();
    return api;
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  get watching(): number {
    return this.#watchers.size;
  }

  async open(): Promise<void> {
    const { cert, key, ca } = this.#files;
    const server = createServer(
      {
        cert: readFileSync(cert),
        key: readFileSync(key),
        ca: readFileSync(ca),
        requestCert: true,
        rejectUnauthorized: false,
      },
      (request, answer) => this.#answer(request, answer),
    );
    server.on('secureConnection', (socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    await new Promise<void>((resolve) => server.listen(this.#port, '127.0.0.1', resolve));
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** The server is away; what happens meanwhile is seen by those who come back. */
  async shut(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.cut();
    await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  }

  /** Breaks all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#watchers.clear();
  }

  /** A kubeconfig in the folder of the certificates. `user`: YAML of the user; a client certificate by default. */
  kubeconfig(more: { readonly user?: string; readonly cluster?: string; readonly name?: string } = {}): string {
    const file = join(this.pki.folder, more.name ?? 'kubeconfig');
    const { user = this.clientUser(), cluster = `server: ${this.url}, certificate-authority: ca.crt` } = more;
    writeFileSync(
      file,
      `apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: other, context: {cluster: none, user: none}}, {name: lab, context: {cluster: kube, user: hub}}]
clusters: [{name: kube, cluster: {${cluster}}}]
users: [{name: hub, user: {${user}}}]
`,
    );
    return file;
  }

  clientUser(): string {
    const { cert, key } = this.pki.client('mesh-hub');
    return `client-certificate: ${cert}, client-key: ${key}`;
  }

  get token(): string {
    return TOKEN;
  }

  put(object: KubeObject): void {
    const key = keyOf(object);
    const type = this.#objects.has(key) ? 'MODIFIED' : 'ADDED';
    const text = this.#stamp(object);
    this.#objects.set(key, text);
    this.#happened(object.kind, `{"type":"${type}","object":${text}}\n`);
  }

  delete(object: KubeObject): void {
    this.#objects.delete(keyOf(object));
    this.#happened(object.kind, `{"type":"DELETED","object":${this.#stamp(object)}}\n`);
  }

  /** All watches hear it, as it is. */
  say(line: string): void {
    for (const watcher of this.#watchers) this.#write(watcher.answer, Buffer.from(line));
  }

  /** The same events once more. */
  repeat(): void {
    for (const { plural, line } of this.#events)
      for (const watcher of this.#watchers)
        if (watcher.plural === plural) this.#write(watcher.answer, Buffer.from(line));
  }

  /** History is forgotten: whoever comes with a version of now or before has to list again. */
  compact(): void {
    this.#version++;
    this.#oldest = this.#version;
    this.#events.length = 0;
  }

  async close(): Promise<void> {
    await this.shut();
    this.pki.close();
  }

  #stamp(object: KubeObject): string {
    this.#version++;
    const metadata = {
      uid: `uid-${object.metadata.name}`,
      generation: this.#version,
      managedFields: [{ manager: 'kubectl', operation: 'Update' }],
      ...object.metadata,
      resourceVersion: String(this.#version),
    };
    return JSON.stringify({ ...object, metadata });
  }

  #happened(kind: string, line: string): void {
    const plural = PLURALS[kind] ?? '';
    this.#events.push({ version: this.#version, plural, line });
    for (const watcher of this.#watchers) if (watcher.plural === plural) this.#write(watcher.answer, Buffer.from(line));
  }

  #write(answer: ServerResponse, bytes: Buffer): void {
    if (this.chunkBytes === 0) answer.write(bytes);
    else
      for (let at = 0; at < bytes.length; at += this.chunkBytes) answer.write(bytes.subarray(at, at + this.chunkBytes));
  }

  #answer(request: IncomingMessage, answer: ServerResponse): void {
    const url = new URL(request.url ?? '', this.url);
    const plural = url.pathname.slice('/apis/'.length);
    const query = url.searchParams;
    const watch = query.get('watch') === 'true';
    this.asked.push(watch ? `watch ${plural} ${query.get('resourceVersion')}` : `list ${plural}`);
    const broken = this.broken ?? (watch ? undefined : this.brokenList);
    const known = (request.socket as TLSSocket).authorized || request.headers.authorization === `Bearer ${TOKEN}`;
    const unknown = this.missing.has(plural) || !Object.values(PLURALS).includes(plural);
    if (broken !== undefined) broken(answer);
    else if (!known) status(answer, 401, 'Unauthorized');
    else if (unknown) status(answer, 404, 'the server could not find the requested resource');
    else if (watch) this.#watch(plural, Number(query.get('resourceVersion')), answer);
    else this.#list(plural, query, answer);
  }

  #list(plural: string, query: URLSearchParams, answer: ServerResponse): void {
    const all = [...this.#objects].filter(([key]) => key.startsWith(`${plural} `)).map(([, text]) => text);
    const [at = '0', when = this.#oldest] = query.get('continue')?.split('@') ?? [];
    const from = Number(at);
    // As a real one says of a token that is too old, or of somebody else's.
    if (Number.isNaN(from) || Number(when) !== this.#oldest) {
      status(answer, 410, 'The provided continue parameter is too old');
      return;
    }
    const to = from + Math.min(this.pageSize, Number(query.get('limit')));
    const next = to < all.length ? `,"continue":"${to}@${this.#oldest}"` : '';
    const items = all.slice(from, to).join(',');
    this.onPage?.();
    answer.setHeader('content-type', 'application/json');
    answer.end(`{"kind":"List","metadata":{"resourceVersion":"${this.#version}"${next}},"items":[${items}]}`);
  }

  #watch(plural: string, version: number, answer: ServerResponse): void {
    if (version < this.#oldest) {
      answer.end('{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n');
      return;
    }
    answer.flushHeaders();
    for (const event of this.#events)
      if (event.plural === plural && event.version > version) this.#write(answer, Buffer.from(event.line));
    const bookmark = `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"${this.#version}"}}}\n`;
    this.#write(answer, Buffer.from(bookmark));
    const watcher = { plural, answer };
    this.#watchers.add(watcher);
    answer.on('close', () => this.#watchers.delete(watcher));
  }
}

function status(answer: ServerResponse, code: number, message: string): void {
  answer.statusCode = code;
  answer.end(JSON.stringify({ kind: 'Status', code, message }));
}

function keyOf({ kind, metadata }: KubeObject): string {
  return `${PLURALS[kind]} ${metadata.namespace ?? ''}/${metadata.name}`;
}
