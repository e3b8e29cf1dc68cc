import { type ChildProcess, spawn } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { askRecord } from '../src/api/ask.ts';
import { JobGroup } from '../src/core/job.ts';
import { storeAccess } from '../src/hub/hub-store.ts';
import { initHub, loadHub } from '../src/hub/init.ts';
import type { HubStatusRecord } from '../src/hub/types.ts';
import { LeasePool } from '../src/kvstore/lease-pool.ts';
import { openWriterStore, type WriterStore } from '../src/kvstore/writer-store.ts';
import { loopbackAddress } from '../test/lab/etcd.ts';
import { endProcess, until } from '../test/lab/namespace.ts';
import type { Row } from './row.ts';

const MACHINES = 5000;
/** Machines of one kind share an identity. */
const GROUPS = 50;
const TICKS_PER_SECOND = 100;
const STEADY_MS = 20_000;
/** After that the hub has given back what the storm needed, milliseconds. */
const REST_MS = 22_000;
/** Every agent announces itself again so often. */
const REFRESH_MS = 5 * 60_000;
const REGISTER = 'cilium/state/noderegister/v1/';
const ADDRESSES = 'cilium/state/ip/v1/default/';
const root = join(import.meta.dirname, '..');

/** One hub with etcd, certificates and access control of its own, and a fleet of machines, on the same cores. */
export async function run(machines = MACHINES): Promise<Row[]> {
  const scene = await Scene.open(machines);
  try {
    return await scene.measure();
  } finally {
    await scene.close();
  }
}

class Scene {
  readonly #count: number;
  readonly #folder: string;
  readonly #socket: string;
  #hub: ChildProcess;
  #fleet: Fleet | undefined;
  #store: WriterStore | undefined;

  private constructor(count: number, folder: string) {
    this.#count = count;
    this.#folder = folder;
    this.#socket = join(folder, 'hub.sock');
    this.#hub = this.#start();
  }

  static async open(count: number): Promise<Scene> {
    const folder = mkdtempSync(join(tmpdir(), 'mesh-bench-'));
    const address = loopbackAddress();
    const choices = {
      clusterName: 'vms',
      clusterId: 100,
      pools: ['10.192.0.0/16'],
      names: ['hub.example.com'],
      listenEtcd: `${address}:24790`,
      listenEnrolment: `${address}:24795`,
    };
    const made = await initHub({ stateDir: folder, choices });
    // The fleet is one connection, of the administrator: of no machine there is one of its own.
    const yaml = 'metrics: {listen: ""}\nlog: {level: error}\nservices: {unreachableAfter: 0}\n';
    appendFileSync(made.folder.config, yaml);
    const scene = new Scene(count, folder);
    await until('the hub is complete', async () => (await scene.#facts())?.complete === true, 60_000);
    const { config, folder: files } = loadHub(folder);
    scene.#store = openWriterStore({ etcd: async () => storeAccess(config, files) });
    return scene;
  }

  async measure(): Promise<Row[]> {
    const count = this.#count.toLocaleString('en');
    const store = this.#store as WriterStore;
    const rows: Row[] = [{ name: 'hub without machines: resident memory', value: this.#memory(), unit: 'MB' }];
    rows.push({
      name: `hub: create ${count} workloads over the socket, 16 at once`,
      value: await this.#create(),
      unit: 's',
    });
    const fleet = new Fleet(store, this.#count);
    this.#fleet = fleet;
    await fleet.ready();
    let began = performance.now();
    let cpu = this.#cpu();
    await fleet.announce();
    await until('all are published', () => fleet.published >= this.#count, 300_000);
    rows.push(
      {
        name: `hub: ${count} machines announce themselves at once: all registered and published`,
        value: since(began),
        unit: 's',
        bar: '< 30',
      },
      { name: 'hub: processor time of that', value: this.#cpu() - cpu, unit: 's' },
    );
    await until('it is quiet', async () => (await this.#facts())?.pendingKeys === 0, 60_000);
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    rows.push({ name: `hub: ${count} machines: resident memory`, value: this.#memory(), unit: 'MB', bar: '< 300' });

    cpu = this.#cpu();
    await fleet.refresh(STEADY_MS);
    rows.push({
      name: `hub: ${count} machines at rest, each registering anew every 5 minutes`,
      value: ((this.#cpu() - cpu) / (STEADY_MS / 1000)) * 100,
      unit: '% of a core',
      bar: '< 10',
    });

    fleet.forgetPublished();
    began = performance.now();
    cpu = this.#cpu();
    await this.#relabel();
    await until('all are published anew', () => fleet.published >= this.#count, 300_000);
    rows.push(
      {
        name: `hub: labels of ${count} machines changed over the socket, until all are published anew`,
        value: since(began),
        unit: 's',
        bar: '< 60',
      },
      { name: 'hub: processor time of that', value: this.#cpu() - cpu, unit: 's' },
    );
    rows.push({
      name: 'hub: one label changed, until peers see it, p99',
      value: await this.#delays(),
      unit: 'ms',
      bar: '< 250',
    });
    rows.push({
      name: `hub: killed and started again: ${count} machines taken over, complete`,
      value: await this.#restart(),
      unit: 's',
      bar: '< 30',
    });
    return rows;
  }

  async close(): Promise<void> {
    await this.#fleet?.close();
    await this.#store?.close();
    await endProcess(this.#hub);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #start(): ChildProcess {
    const where = ['--state-dir', this.#folder, '--socket', this.#socket];
    const args = ['--pdeathsig', 'KILL', process.execPath, '--no-warnings', join(root, 'src/main.ts'), 'hub', 'run'];
    return spawn('setpriv', [...args, ...where], { stdio: 'ignore' });
  }

  /** Killed with its etcd, and started again. */
  async #restart(): Promise<number> {
    const ended = new Promise((resolve) => this.#hub.once('exit', resolve));
    this.#hub.kill('SIGKILL');
    await ended;
    const began = performance.now();
    this.#hub = this.#start();
    await until('the hub is complete again', async () => (await this.#facts())?.complete === true, 120_000);
    return since(began);
  }

  async #create(): Promise<number> {
    const began = performance.now();
    await parallel(this.#count, 16, async (i) => {
      const body = { name: nameOf(i), labels: { app: `group-${i % GROUPS}`, env: 'production' } };
      await askRecord({ socket: this.#socket }, '/v1/workloads', { method: 'POST', body });
    });
    return since(began);
  }

  #relabel(): Promise<void> {
    return parallel(this.#count, 16, async (i) => {
      await this.#label(i, 'canary');
    });
  }

  async #label(i: number, env: string): Promise<void> {
    const body = { labels: { env } };
    await askRecord({ socket: this.#socket }, `/v1/workloads/${nameOf(i)}`, { method: 'PUT', body });
  }

  async #delays(): Promise<number> {
    const fleet = this.#fleet as Fleet;
    const delays: number[] = [];
    for (let i = 0; i < 200; i++) {
      fleet.forgetPublished();
      const began = performance.now();
      await this.#label(i, 'production');
      await until('it is published', () => fleet.has(i));
      delays.push((fleet.lastAt ?? performance.now()) - began);
    }
    return delays.sort((a, b) => a - b)[Math.floor(delays.length * 0.99)] ?? 0;
  }

  async #facts(): Promise<{ complete?: boolean; pendingKeys?: number } | undefined> {
    const status = await askRecord<HubStatusRecord>({ socket: this.#socket }, '/v1/status').catch(() => undefined);
    return status?.parts.find(({ name }) => name === 'registration')?.facts;
  }

  #memory(): number {
    const text = readFileSync(`/proc/${this.#hub.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(text)?.[1] ?? 0) / 1024;
  }

  /** Seconds of the hub's own process, without etcd. */
  #cpu(): number {
    const fields = readFileSync(`/proc/${this.#hub.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }
}

/** Machines, as far as the store knows them: they announce, take the answer, and write it back with an address. */
class Fleet {
  readonly #store: WriterStore;
  readonly #count: number;
  readonly #jobs = new JobGroup(() => undefined);
  readonly #pool = new LeasePool(900, this.#jobs, () => undefined);
  readonly #leases = new Map<string, string>();
  readonly #seen = new Set<string>();
  readonly #watches: readonly { readonly synced: boolean; close(): void }[];
  readonly #unfollow: () => void;
  #lease: ((name: string) => Promise<string>) | undefined;
  lastAt: number | undefined;

  constructor(store: WriterStore, count: number) {
    this.#store = store;
    this.#count = count;
    this.#unfollow = store.session.follow({
      connect: (connection) => {
        this.#pool.connect(connection);
        this.#lease = async () => (await this.#pool.take(connection)).id;
      },
      disconnect: () => this.#pool.disconnect(),
      forget: () => this.#pool.forget(),
    });
    const none = { listing() {}, remove() {}, listed() {} };
    this.#watches = [
      store.watchPrefix(REGISTER, { ...none, put: (name, value) => this.#answered(name, value.toString()) }),
      store.watchPrefix(ADDRESSES, {
        ...none,
        put: (address) => {
          if (!address.startsWith('172.')) return;
          this.#seen.add(address);
          this.lastAt = performance.now();
        },
      }),
    ];
  }

  get published(): number {
    return this.#seen.size;
  }

  has(i: number): boolean {
    return this.#seen.has(addressOf(i));
  }

  forgetPublished(): void {
    this.#seen.clear();
  }

  ready(): Promise<void> {
    return until('the fleet listens', () => this.#lease !== undefined && this.#watches.every(({ synced }) => synced));
  }

  announce(): Promise<void> {
    return parallel(this.#count, 64, (i) => this.#announce(i));
  }

  /** So many machines announce themselves anew as do in that time. */
  async refresh(ms: number): Promise<void> {
    const began = performance.now();
    for (let i = 0; performance.now() - began < ms; i++) {
      const due = (i * REFRESH_MS) / this.#count;
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - (performance.now() - began))));
      await this.#announce(i % this.#count);
    }
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.close();
    this.#unfollow();
    this.#pool.disconnect();
    await this.#jobs.stop();
  }

  async #announce(i: number): Promise<void> {
    const name = nameOf(i);
    const lease = this.#leases.get(name) ?? (await this.#lease?.(name)) ?? '0';
    this.#leases.set(name, lease);
    await this.#put(name, JSON.stringify({ Name: name, Source: 'local', NodeIdentity: 0 }));
  }

  #answered(name: string, value: string): void {
    if (!value.includes('"IPAddresses":null') || value.includes('"NodeIdentity":0')) return;
    const ip = addressOf(Number(name.slice(name.indexOf('-') + 1)));
    const reported = value.replace('"IPAddresses":null', `"IPAddresses":[{"Type":"InternalIP","IP":"${ip}"}]`);
    this.#put(name, reported).catch(() => undefined);
  }

  async #put(name: string, value: string): Promise<void> {
    await this.#store.transact({ perform: [{ put: REGISTER + name, value, lease: this.#leases.get(name) ?? '0' }] });
  }
}

function nameOf(i: number): string {
  return `machine-${i}`;
}

function addressOf(i: number): string {
  return `172.${16 + (i >> 14)}.${(i >> 7) & 127}.${1 + (i & 127)}`;
}

function since(began: number): number {
  return (performance.now() - began) / 1000;
}

async function parallel(count: number, workers: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: workers }, async () => {
      while (next < count) await work(next++);
    }),
  );
}
