import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endProcess, type Namespace, until } from './namespace.ts';
import type { CertificateFiles } from './pki.ts';

export interface EtcdOptions {
  /** Runs inside this namespace, on ports 2379 and 2380 of `address`; without it on a loopback address of this process. */
  readonly namespace?: Namespace;
  /** Where clients connect; it must exist in the namespace. Default 127.0.0.1 there. */
  readonly address?: string;
  /** The client port, which it keeps over restarts. */
  readonly port?: number;
  /** Members of the cluster; more than one only on loopback. */
  readonly members?: number;
  /** TLS with client certificates. `server` must carry the address or `serverName`, `admin` is what `ctl` uses (user `root`). */
  readonly tls?: { readonly server: CertificateFiles; readonly admin: CertificateFiles };
  /** The host in the endpoint URLs, if not the address: `localhost`. */
  readonly serverName?: string;
  /** Further flags of etcd. */
  readonly flags?: readonly string[];
}

/** Rights of a role: `read`, `write` or `readwrite`; a prefix, or one key. */
export interface Grant {
  readonly permission: 'read' | 'write' | 'readwrite';
  readonly prefix?: string;
  readonly key?: string;
}

/** A real etcd (Debian's 3.4) with a data folder of its own. Members end with this process, however it ends. */
export class Etcd {
  readonly members: readonly EtcdMember[];
  readonly #options: EtcdOptions;
  readonly #folder: string;
  #token = newToken();

  private constructor(options: EtcdOptions) {
    this.#options = options;
    this.#folder = mkdtempSync(join(dataRoot(), 'mesh-etcd-'));
    const count = options.members ?? 1;
    const address = options.address ?? (options.namespace === undefined ? loopbackAddress() : '127.0.0.1');
    const fixed = options.namespace !== undefined || options.port !== undefined;
    this.members = Array.from({ length: count }, (_, index) => {
      const port = fixed ? (options.port ?? 2379) + 2 * index : nextPort();
      const peerPort = fixed ? port + 1 : nextPort();
      return new EtcdMember({ name: `m${index}`, address, port, peerPort, folder: this.#folder, options });
    });
  }

  /** Starts all members and waits until the cluster answers. */
  static async start(options: EtcdOptions = {}): Promise<Etcd> {
    const etcd = new Etcd(options);
    try {
      await etcd.restart();
      return etcd;
    } catch (error) {
      await etcd.close();
      throw error;
    }
  }

  get endpoints(): string[] {
    return this.members.map((member) => member.endpoint);
  }

  /** Runs etcdctl against all members; its standard output. */
  ctl(...args: string[]): Promise<string> {
    return this.#ctl(this.endpoints, args);
  }

  async put(key: string, value: string): Promise<void> {
    await this.ctl('put', '--', key, value);
  }

  /** The value of a key, or undefined. */
  async get(key: string): Promise<string | undefined> {
    const text = await this.ctl('get', '--print-value-only', '--', key);
    return text === '' ? undefined : text.replace(/\n$/, '');
  }

  async revision(): Promise<number> {
    const answer = JSON.parse(await this.ctl('get', '-w', 'json', '--', 'no such key')) as {
      header: { revision: number };
    };
    return answer.header.revision;
  }

  /** Compacts everything up to now. */
  async compact(): Promise<void> {
    await this.ctl('compact', String(await this.revision()));
  }

  /** Makes a role and gives it to a user without a password: the user of a certificate's common name. */
  async addUser(name: string, grants: readonly Grant[]): Promise<void> {
    await this.ctl('role', 'add', name);
    for (const grant of grants) await this.grant(name, grant);
    await this.ctl('user', 'add', name, '--no-password');
    await this.ctl('user', 'grant-role', name, name);
  }

  async grant(role: string, { permission, prefix, key }: Grant): Promise<void> {
    const what =
      prefix === undefined ? ['--', role, permission, key ?? ''] : ['--prefix', '--', role, permission, prefix];
    await this.ctl('role', 'grant-permission', ...what);
  }

  async revoke(role: string, { prefix, key }: Grant): Promise<void> {
    const what = prefix === undefined ? ['--', role, key ?? ''] : ['--prefix', '--', role, prefix];
    await this.ctl('role', 'revoke-permission', ...what);
  }

  /** Turns access control on; `root` (the admin certificate) may do everything. */
  async enableAuth(): Promise<void> {
    await this.ctl('user', 'add', 'root', '--no-password');
    await this.ctl('user', 'grant-role', 'root', 'root');
    await this.ctl('auth', 'enable');
  }

  /** Ends what still runs, then starts all members with the data that is there, and waits until they answer. */
  async restart(): Promise<void> {
    await this.stop();
    const cluster = this.members.map((member) => `${member.name}=${member.peerUrl}`).join(',');
    for (const member of this.members) member.spawn({ cluster, token: this.#token });
    await this.ready();
  }

  /** The same, with nothing in it. The etcd cluster id changes, unless it shall stay (a restored, older data set). */
  async reset(options: { readonly sameClusterId?: boolean } = {}): Promise<void> {
    await this.kill();
    for (const member of this.members) member.empty();
    if (options.sameClusterId !== true) this.#token = newToken();
    await this.restart();
  }

  async stop(): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop()));
  }

  async kill(): Promise<void> {
    await Promise.all(this.members.map((member) => member.kill()));
  }

  /** Hangs all members: their connections stay open, nothing answers. */
  pause(): void {
    for (const member of this.members) member.pause();
  }

  resume(): void {
    for (const member of this.members) member.resume();
  }

  /** Waits until a linearizable read is answered by every member. */
  async ready(): Promise<void> {
    await until(
      `etcd at ${this.endpoints.join(', ')} answers\n${this.members.map((member) => member.log).join('\n')}`,
      async () => {
        const ended = this.members.find((member) => !member.running);
        if (ended !== undefined) throw new Error(`etcd ended:\n${ended.log}`);
        return (await Promise.all(this.endpoints.map((endpoint) => this.#answers(endpoint)))).every(Boolean);
      },
      30_000,
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.members.map((member) => member.kill()));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #answers(endpoint: string): Promise<boolean> {
    return this.#ctl([endpoint], ['get', '--', 'no such key'], '2s').then(
      () => true,
      (error: Error) => /permission denied|user name is empty/.test(error.message),
    );
  }

  #ctl(endpoints: readonly string[], args: readonly string[], timeout = '10s'): Promise<string> {
    const { namespace, tls } = this.#options;
    const admin = tls && ['--cacert', tls.admin.ca, '--cert', tls.admin.cert, '--key', tls.admin.key];
    const all = ['--endpoints', endpoints.join(','), '--command-timeout', timeout, ...(admin ?? []), ...args];
    const [command, ...rest] = inside(namespace, 'etcdctl', all);
    return new Promise((resolve, reject) => {
      execFile(command, rest, { env: { ...process.env, ETCDCTL_API: '3' }, maxBuffer: 1 << 28 }, (error, out, err) =>
        error === null ? resolve(out) : reject(new Error(`etcdctl ${args.join(' ')}: ${err || error.message}`)),
      );
    });
  }
}

interface MemberOptions {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly peerPort: number;
  readonly folder: string;
  readonly options: EtcdOptions;
}

export class EtcdMember {
  readonly name: string;
  readonly endpoint: string;
  readonly peerUrl: string;
  readonly address: string;
  readonly port: number;
  readonly #data: string;
  readonly #options: EtcdOptions;
  #child: ChildProcess | undefined;
  #start: { cluster: string; token: string } | undefined;
  #log = '';

  constructor({ name, address, port, peerPort, folder, options }: MemberOptions) {
    this.name = name;
    this.address = address;
    this.port = port;
    this.peerUrl = `http://${inUrl(address)}:${peerPort}`;
    this.endpoint = `${options.tls ? 'https' : 'http'}://${options.serverName ?? inUrl(address)}:${port}`;
    this.#data = join(folder, name);
    this.#options = options;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** The end of what the member printed. */
  get log(): string {
    return this.#log;
  }

  spawn(start: { cluster: string; token: string }): void {
    this.#start = start;
    const { tls, flags = [], namespace } = this.#options;
    const client = `${tls ? 'https' : 'http'}://${inUrl(this.address)}:${this.port}`;
    const secure = tls && ['--cert-file', tls.server.cert, '--key-file', tls.server.key];
    const clients = tls && ['--client-cert-auth', '--trusted-ca-file', tls.server.ca];
    const args = [
      ...['--name', this.name, '--data-dir', this.#data, '--logger', 'zap', '--log-level', 'warn'],
      ...['--listen-client-urls', client, '--advertise-client-urls', client],
      ...['--listen-peer-urls', this.peerUrl, '--initial-advertise-peer-urls', this.peerUrl],
      ...['--initial-cluster', start.cluster, '--initial-cluster-token', start.token],
      ...(secure ?? []),
      ...(clients ?? []),
      ...flags,
    ];
    // A test that is killed must not leave its store behind.
    const [command, ...rest] = inside(namespace, 'setpriv', ['--pdeathsig', 'KILL', 'etcd', ...args]);
    const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
    const keep = (data: Buffer): void => {
      this.#log = (this.#log + data.toString()).slice(-4000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => keep(Buffer.from(error.message)));
    this.#child = child;
  }

  /** Starts a stopped member again, with its data; does not wait. */
  start(): void {
    if (!this.running && this.#start !== undefined) this.spawn(this.#start);
  }

  async stop(): Promise<void> {
    this.resume();
    if (this.#child !== undefined) await endProcess(this.#child);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.running) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  pause(): void {
    if (this.running) this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    if (this.running) this.#child?.kill('SIGCONT');
  }

  /** Deletes the data of a member that does not run. */
  empty(): void {
    rmSync(this.#data, { recursive: true, force: true });
  }
}

/**
 * An address of 127/8 that no other process uses, so that fixed ports on it are free: stores come back at the same
 * endpoint after a stop, which a port that the kernel chose does not promise.
 */
export function loopbackAddress(): string {
  return `127.${64 + ((process.pid >> 16) & 63)}.${(process.pid >> 8) & 255}.${process.pid & 255}`;
}

let lastPort = 12_000;

function nextPort(): number {
  return ++lastPort;
}

function newToken(): string {
  return randomBytes(8).toString('hex');
}

function inUrl(address: string): string {
  return address.includes(':') ? `[${address}]` : address;
}

function inside(namespace: Namespace | undefined, command: string, args: readonly string[]): [string, ...string[]] {
  if (namespace === undefined) return [command, ...args];
  return ['nsenter', `--net=/run/netns/${namespace.name}`, command, ...args];
}

/** Memory if there is enough: etcd waits for the disk at every write. `MESH_LAB_DATA` names another place. */
function dataRoot(): string {
  if (process.env.MESH_LAB_DATA !== undefined) return process.env.MESH_LAB_DATA;
  try {
    const { bsize, bavail } = statfsSync('/dev/shm');
    if (bsize * bavail > 2 ** 30) return '/dev/shm';
  } catch {
    // There is no such folder.
  }
  return tmpdir();
}
