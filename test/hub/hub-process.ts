import { type ChildProcess, spawn } from 'node:child_process';
import { appendFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { askRecord } from '../../src/api/ask.ts';
import type { HubConfig } from '../../src/hub/config.ts';
import { type HubFolder, hubFolder } from '../../src/hub/folder.ts';
import { storeAccess } from '../../src/hub/hub-store.ts';
import { initHub, loadHub } from '../../src/hub/init.ts';
import type { HubStatusRecord } from '../../src/hub/types.ts';
import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { openAuthority } from '../../src/pki/authority.ts';
import { writeFileSafely } from '../../src/pki/files.ts';
import { generateKey, privateKeyPem } from '../../src/pki/keys.ts';
import { loopbackAddress } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

const RUN = join(import.meta.dirname, 'run-hub.ts');
let count = 0;

/** A hub in a folder of its own, on a loopback address of this process, run as the command line runs it. */
export class HubProcess {
  readonly stateDir: string;
  readonly socket: string;
  readonly folder: HubFolder;
  readonly config: HubConfig;
  readonly #stores: WriterStore[] = [];
  #child: ChildProcess | undefined;
  #log = '';

  private constructor(stateDir: string, made: { folder: HubFolder; config: HubConfig }) {
    this.stateDir = stateDir;
    this.socket = join(stateDir, 'hub.sock');
    this.folder = made.folder;
    this.config = made.config;
  }

  static async make(
    more: { readonly yaml?: string; readonly etcdEndpoints?: readonly string[] } = {},
  ): Promise<HubProcess> {
    const stateDir = mkdtempSync(join(tmpdir(), 'mesh-hub-'));
    const address = loopbackAddress();
    const port = 21_000 + 10 * count++;
    const choices = {
      clusterName: 'vms',
      clusterId: 100,
      pools: ['10.192.0.0/16'],
      names: ['hub.example.com'],
      listenEtcd: `${address}:${port}`,
      listenEnrolment: `${address}:${port + 5}`,
      ...(more.etcdEndpoints !== undefined && { etcdEndpoints: more.etcdEndpoints }),
    };
    const lab = new HubProcess(stateDir, await initHub({ stateDir, choices }));
    appendFileSync(lab.folder.config, `metrics: {listen: ""}\n${more.yaml ?? ''}`);
    return lab;
  }

  /** Another hub with the same keys and configuration, for the same given etcd. */
  static twin(of: HubProcess): HubProcess {
    const stateDir = mkdtempSync(join(tmpdir(), 'mesh-hub-'));
    const folder = hubFolder(stateDir);
    cpSync(of.folder.path, folder.path, { recursive: true });
    const port = (listen: string): number => Number(listen.split(':')[1]);
    const yaml = [of.config.listen.etcd, of.config.listen.enrolment].reduce(
      (text, listen) => text.replace(listen, `${loopbackAddress()}:${port(listen) + 1000}`),
      readFileSync(folder.config, 'utf8'),
    );
    writeFileSync(folder.config, yaml);
    return new HubProcess(stateDir, loadHub(stateDir));
  }

  /** Where machines and clusters connect. */
  get endpoint(): string {
    return `https://${this.config.listen.etcd}`;
  }

  get log(): string {
    return this.#log;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** `args`: of Node, for another program than that of the tests. */
  start(args: readonly string[] = [RUN, this.stateDir, this.socket]): void {
    // A test that is killed must not leave its hub behind.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', process.execPath, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const keep = (data: Buffer): void => {
      this.#log = (this.#log + data.toString()).slice(-20_000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    this.#child = child;
  }

  /** Starts it and waits until it leads, or another one does. */
  async run(args?: readonly string[]): Promise<HubStatusRecord> {
    this.start(args);
    return this.untilStatus('a leader', (status) => status.leader !== null && status.store.state === 'connected');
  }

  status(): Promise<HubStatusRecord> {
    return askRecord<HubStatusRecord>({ socket: this.socket, whom: 'hub' }, '/v1/status');
  }

  async untilStatus(what: string, fine: (status: HubStatusRecord) => boolean): Promise<HubStatusRecord> {
    let last: HubStatusRecord | undefined;
    await until(
      `hub status shows ${what}`,
      async () => {
        if (!this.running) throw new Error(`the hub ended:\n${this.#log}`);
        last = await this.status().catch(() => undefined);
        return last !== undefined && fine(last);
      },
      30_000,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${JSON.stringify(last)}\n${this.#log}`);
    });
    return last as HubStatusRecord;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Ends it; the exit code. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const child = this.#child;
    if (child === undefined) return null;
    if (this.running) {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill(signal);
      await ended;
    }
    return child.exitCode;
  }

  /** The exit code of a hub that ends by itself. */
  async ended(): Promise<number | null> {
    await until('the hub ends', () => !this.running, 20_000);
    return this.#child?.exitCode ?? null;
  }

  admin(): EtcdOptions {
    return storeAccess(this.config, this.folder);
  }

  /** A client certificate of the hub's authority. */
  async client(commonName: string, seconds = 3600): Promise<EtcdOptions> {
    const ca = openAuthority({
      certificate: readFileSync(this.folder.ca.cert, 'utf8'),
      key: readFileSync(this.folder.ca.key, 'utf8'),
    });
    const key = generateKey();
    const base = join(this.stateDir, `client-${count++}`);
    await writeFileSafely(`${base}.key`, privateKeyPem(key));
    await writeFileSafely(`${base}.crt`, ca.issueClient({ commonName, publicKey: key, seconds }).pem);
    return { endpoints: [this.endpoint], ca: this.folder.ca.cert, cert: `${base}.crt`, key: `${base}.key` };
  }

  /** Revokes a machine in the running hub. */
  async revoke(name: string): Promise<void> {
    const change = { method: 'POST', body: {} } as const;
    await askRecord({ socket: this.socket, whom: 'hub' }, `/v1/test/revoke/${name}`, change);
  }

  /** A store reached with these rights; the administrator's by default. */
  open(etcd: EtcdOptions = this.admin()): WriterStore {
    const store = openWriterStore({ etcd: async () => etcd, timing: { retryMinMs: 50, retryMaxMs: 300 } });
    this.#stores.push(store);
    return store;
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.map((store) => store.close()));
    this.signal('SIGCONT');
    await this.end();
    rmSync(this.stateDir, { recursive: true, force: true });
  }
}
