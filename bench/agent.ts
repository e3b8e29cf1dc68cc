import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { openClient } from '../src/api/client.ts';
import { Etcd } from '../test/lab/etcd.ts';
import { endProcess, Namespace, until } from '../test/lab/namespace.ts';
import type { Row } from './row.ts';

const root = join(import.meta.dirname, '..');
/** Another program can be measured: what `MESH_AGENT` names. */
const EXECUTABLE = process.env.MESH_AGENT ?? join(root, 'dist/mesh-agent');
const TICKS_PER_SECOND = 100;
/** After that what the start needed has been given back, milliseconds. */
const REST_MS = 15_000;

export interface Size {
  readonly addresses: number;
  readonly bars: { readonly seconds?: string; readonly memory?: string };
}

const SIZES: readonly Size[] = [
  { addresses: 0, bars: { memory: '< 80' } },
  { addresses: 100_000, bars: { seconds: '< 3', memory: '< 150' } },
  { addresses: 250_000, bars: { seconds: '< 6' } },
  { addresses: 1_000_000, bars: { seconds: '< 25', memory: '< 450' } },
];

/** The built executable against a real etcd: start to enforced, memory, a change to the kernel, CPU at rest. */
export async function run(sizes: readonly Size[] = SIZES): Promise<Row[]> {
  if (!existsSync(EXECUTABLE)) throw new Error('build first: scripts/build.sh');
  const rows: Row[] = [];
  for (const size of sizes) rows.push(...(await measure(size)));
  return rows;
}

async function measure(size: Size): Promise<Row[]> {
  const bench = await Scene.open();
  try {
    await bench.order({ do: 'publish', count: size.addresses });
    const name = `${size.addresses.toLocaleString('en')} addresses`;
    const seconds = await bench.startToEnforced(size.addresses);
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    const rows: Row[] = [
      {
        name: `${name}: start to enforced`,
        value: seconds,
        unit: 's',
        ...(size.bars.seconds !== undefined && { bar: size.bars.seconds }),
      },
      {
        name: `${name}: resident memory`,
        value: bench.memory(),
        unit: 'MB',
        ...(size.bars.memory !== undefined && { bar: size.bars.memory }),
      },
    ];
    rows.push({
      name: `${name}: restart to enforced, kernel already right`,
      value: await bench.restart(size.addresses),
      unit: 's',
    });
    if (size.addresses === 100_000) rows.push(...(await changes(bench, size.addresses)));
    return rows;
  } finally {
    await bench.close();
  }
}

interface Changes {
  readonly total: number;
  readonly tookMs: number;
  readonly missing: number;
  readonly p50: number;
  readonly p99: number;
}

async function changes(bench: Scene, count: number): Promise<Row[]> {
  const usual = (await bench.order({ do: 'change', count, rate: 325, seconds: 20 })) as Changes;
  const much = (await bench.order({ do: 'change', count, rate: 2000, seconds: 10 })) as Changes;
  const blocked = await bench.loopDelay();
  return [
    { name: 'one changed address to the kernel, p50 at 325 changes/s', value: usual.p50, unit: 'ms' },
    { name: 'one changed address to the kernel, p99 at 325 changes/s', value: usual.p99, unit: 'ms', bar: '< 100' },
    { name: 'changes that never arrived', value: usual.missing + much.missing, unit: '', bar: '< 0' },
    { name: 'sustained changes', value: much.total / (much.tookMs / 1000), unit: '/s', bar: '> 1900' },
    { name: 'one changed address to the kernel, p99 at 2,000 changes/s', value: much.p99, unit: 'ms' },
    { name: 'longest time that the event loop was held up', value: blocked, unit: 'ms', bar: '< 50' },
    { name: 'CPU at rest', value: await bench.rest(), unit: '% of a core', bar: '< 0.5' },
  ];
}

class Scene {
  readonly #namespace = new Namespace('bench');
  readonly #folder = mkdtempSync(join(tmpdir(), 'mesh-bench-'));
  #etcd: Etcd | undefined;
  #world: ChildProcess | undefined;
  #agent: ChildProcess | undefined;
  #answers: AsyncIterator<string> | undefined;

  static async open(): Promise<Scene> {
    const scene = new Scene();
    try {
      await scene.#prepare();
      return scene;
    } catch (error) {
      await scene.close();
      throw error;
    }
  }

  async #prepare(): Promise<void> {
    this.#namespace.run('ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'peer0');
    for (const device of ['eth0', 'peer0']) this.#namespace.run('ip', 'link', 'set', device, 'up');
    this.#namespace.run('ip', 'address', 'add', '192.168.7.2/24', 'dev', 'eth0');
    this.#namespace.run('ip', 'route', 'add', 'default', 'via', '192.168.7.1', 'dev', 'eth0');
    this.#etcd = await Etcd.start({ namespace: this.#namespace, flags: ['--quota-backend-bytes=8589934592'] });
    const world = this.#namespace.start(process.execPath, [
      '--no-warnings',
      join(import.meta.dirname, 'agent-scene.ts'),
    ]);
    this.#world = world;
    world.stderr?.pipe(process.stderr);
    if (world.stdout === null) throw new Error('the scene has no output');
    this.#answers = createInterface({ input: world.stdout })[Symbol.asyncIterator]();
    mkdirSync(join(this.#folder, 'policies'));
    writeFileSync(join(this.#folder, 'policies/deny.yaml'), POLICY);
    writeFileSync(
      join(this.#folder, 'config.yaml'),
      `name: bench-vm\nkvstore: {endpoints: ['http://127.0.0.1:2379']}\npolicies: ${this.#folder}/policies\nlog: {level: warn}\n`,
    );
  }

  async order(order: object): Promise<unknown> {
    this.#world?.stdin?.write(`${JSON.stringify(order)}\n`);
    const answer = await this.#answers?.next();
    if (answer?.done !== false) throw new Error('the scene ended');
    return JSON.parse(answer.value);
  }

  /** Seconds from the start of the process until the kernel holds all addresses. */
  async startToEnforced(addresses: number): Promise<number> {
    const socket = join(this.#folder, 'agent.sock');
    const where = ['--config', join(this.#folder, 'config.yaml'), '--state-dir', this.#folder, '--socket', socket];
    const start = performance.now();
    const prefix = [`--net=/run/netns/${this.#namespace.name}`, EXECUTABLE];
    this.#agent = spawn('nsenter', [...prefix, 'run', ...where], { stdio: ['ignore', 'inherit', 'inherit'] });
    const api = openClient({ socket });
    await until(
      `${addresses} addresses are enforced`,
      async () => {
        const status = await api.status().catch(() => undefined);
        return (
          status?.datapath.applied === true &&
          status.datapath.entries.addresses >= addresses &&
          status.policy.ingress === 'Enabled'
        );
      },
      180_000,
    );
    return (performance.now() - start) / 1000;
  }

  async restart(addresses: number): Promise<number> {
    if (this.#agent !== undefined) await endProcess(this.#agent);
    return this.startToEnforced(addresses);
  }

  /** Resident memory of the agent after it came to rest, MB. */
  memory(): number {
    const status = readFileSync(`/proc/${this.#agent?.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
  }

  async loopDelay(): Promise<number> {
    const text = this.#namespace.run(
      process.execPath,
      '-e',
      "fetch('http://127.0.0.1:9964/metrics').then((r) => r.text()).then(console.log)",
    );
    return Number(/^mesh_agent_event_loop_delay_seconds\{quantile="1"\} (\S+)/m.exec(text)?.[1] ?? Number.NaN) * 1000;
  }

  /** CPU time over 20 idle seconds when the start is over, percent of a core. */
  async rest(): Promise<number> {
    const ticks = (): number => {
      const fields = readFileSync(`/proc/${this.#agent?.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
      return Number(fields[11]) + Number(fields[12]);
    };
    // Hundreds of nodes are asked for the first time, ten a second, and none of them is there.
    await new Promise((resolve) => setTimeout(resolve, 100_000));
    const before = ticks();
    await new Promise((resolve) => setTimeout(resolve, 20_000));
    return ((ticks() - before) / TICKS_PER_SECOND / 20) * 100;
  }

  async close(): Promise<void> {
    if (this.#agent !== undefined) await endProcess(this.#agent);
    await this.#etcd?.close();
    await this.#namespace.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

const POLICY = JSON.stringify({
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumNetworkPolicy',
  metadata: { name: 'bench', namespace: 'default' },
  spec: {
    endpointSelector: { matchLabels: { app: 'bench' } },
    ingress: [{ fromEndpoints: [{ matchLabels: { tier: 'web', 'io.kubernetes.pod.namespace': 'namespace-1' } }] }],
  },
});
