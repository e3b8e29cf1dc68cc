import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { askList } from '../src/api/ask.ts';
import { CLUSTERS_PREFIX, encodeClusterDocument } from '../src/hub/clusters/cluster-document.ts';
import type { RemoteClusterRecord } from '../src/hub/clusters/records.ts';
import { Etcd } from '../test/lab/etcd.ts';
import type { Fleet } from '../test/lab/hub-fleet.ts';
import { endProcess, until } from '../test/lab/namespace.ts';
import type { Place } from '../test/lab/place.ts';
import type { WorldChanges, WorldOrder } from './fleet-world.ts';
import type { Row } from './row.ts';

const CLUSTERS = 20;
const ADDRESSES = 250_000;
const CHANGES = 1500;
/** Half of what a hub writes a second when all is copied. */
const RATE = 50;
const PORT = 32_379;
const TICKS_PER_SECOND = 100;
/** After that what the start needed has been given back, milliseconds. */
const REST_MS = 30_000;
const POLICY = {
  endpointSelector: { matchLabels: { app: 'backend' } },
  ingress: [{ fromEndpoints: [{ matchLabels: { tier: 'web', 'io.kubernetes.pod.namespace': 'namespace-1' } }] }],
};

/** The built executable as a hub with many clusters, and as a machine that joined it: what the two together can do. */
export async function run(): Promise<Row[]> {
  process.env.MESH_AGENT ??= join(import.meta.dirname, '../dist/mesh-agent');
  if (!existsSync(process.env.MESH_AGENT)) throw new Error('build first: scripts/build.sh');
  // Only now: they look at MESH_AGENT when they are loaded.
  const { Fleet } = await import('../test/lab/hub-fleet.ts');
  const scene = new Scene(new Fleet());
  try {
    return await scene.measure();
  } finally {
    await scene.close();
  }
}

class Scene {
  readonly #fleet: Fleet;
  readonly #children: ChildProcess[] = [];
  readonly #heard = new Map<number, number>();
  #source: Etcd | undefined;

  constructor(fleet: Fleet) {
    this.#fleet = fleet;
  }

  async measure(): Promise<Row[]> {
    const { hub } = this.#fleet;
    const world = await this.#clusters();
    const what = `hub: ${CLUSTERS} clusters with ${ADDRESSES.toLocaleString('en')} addresses`;
    const ready = await this.#startUntilReady();
    const { pid, etcd: own } = await hub.untilLeading();
    const etcd = own.process?.pid ?? 0;
    const used = [pid, etcd].map(cpuSeconds) as [number, number];
    const highest = this.#memory(pid, 'VmHWM');
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    const rest = this.#memory(pid, 'VmRSS');
    const joined = await this.#machine();
    const delays = await this.#changes(world);
    const rows: Row[] = [
      { name: `${what}: from the start of the hub until the cache is ready`, value: ready, unit: 's', bar: '< 20' },
      { name: 'the same: processor time of the hub', value: used[0], unit: 's' },
      { name: 'the same: processor time of its etcd', value: used[1], unit: 's' },
      { name: 'the same: resident memory of the hub at its highest', value: highest, unit: 'MB', bar: '< 500' },
      { name: 'the same: resident memory of the hub at rest', value: rest, unit: 'MB', bar: '< 500' },
      { name: 'the same: resident memory of its etcd', value: this.#memory(etcd, 'VmRSS'), unit: 'MB' },
      { name: 'a machine that joins it: start to enforced', value: joined, unit: 's' },
      { name: 'a change of a cluster to the kernel of the machine, p50', value: at(delays, 0.5), unit: 'ms' },
      { name: 'the same: p99', value: at(delays, 0.99), unit: 'ms', bar: '< 250' },
      { name: 'the same: the longest', value: at(delays, 1), unit: 'ms' },
      { name: 'changes that never arrived', value: CHANGES - delays.length, unit: '', bar: '< 1' },
    ];
    await hub.stop();
    rows.push({
      name: `${what}: from a restart until all are ready`,
      value: await this.#startUntilReady(),
      unit: 's',
      bar: '< 20',
    });
    return rows;
  }

  async close(): Promise<void> {
    for (const child of this.#children) await endProcess(child);
    await this.#fleet.close();
    await this.#source?.close();
  }

  /** Connected while they cannot be reached, so that the cache is empty when the hub starts. */
  async #clusters(): Promise<(order: WorldOrder) => Promise<unknown>> {
    const { hub } = this.#fleet;
    const { namespace } = hub.place;
    await hub.init();
    hub.start();
    await hub.untilLeading();
    const endpoints = [`http://127.0.0.1:${PORT}`];
    for (let index = 0; index < CLUSTERS; index++) {
      const times = { connectedAt: index + 1, changedAt: index + 1 };
      const name = `c${index}`;
      hub.etcdctl('put', CLUSTERS_PREFIX + name, encodeClusterDocument({ name, endpoints, ...times }));
    }
    await hub.stop();
    this.#source = await Etcd.start({ namespace, port: PORT, flags: ['--quota-backend-bytes', String(4 * 2 ** 30)] });
    const world = this.#start(hub.place, 'fleet-world.ts', endpoints);
    const answers = createInterface({ input: stdoutOf(world) })[Symbol.asyncIterator]();
    const order = async (given: WorldOrder): Promise<unknown> => {
      world.stdin?.write(`${JSON.stringify(given)}\n`);
      const answer = await answers.next();
      if (answer.done === true) throw new Error('the clusters ended');
      return JSON.parse(answer.value);
    };
    await order({ do: 'publish', clusters: CLUSTERS, addresses: ADDRESSES / CLUSTERS });
    return order;
  }

  /** Seconds. */
  async #startUntilReady(): Promise<number> {
    const { hub } = this.#fleet;
    const began = performance.now();
    hub.start();
    await until(
      'every cluster is copied',
      async () => {
        const records: RemoteClusterRecord[] = [];
        const list = askList<RemoteClusterRecord>({ socket: hub.socket, whom: 'hub' }, '/v1/clusters');
        try {
          for await (const each of list) records.push(each);
        } catch {
          return false;
        }
        return records.length === CLUSTERS && records.every(({ ready }) => ready);
      },
      180_000,
    );
    return (performance.now() - began) / 1000;
  }

  /** From its start until its kernel holds all addresses: seconds. */
  async #machine(): Promise<number> {
    const fleet = this.#fleet;
    await fleet.hub.untilLeading();
    await fleet.create('my-vm');
    await fleet.apply('web', POLICY);
    const agent = fleet.machineFor('my-vm');
    const { code, stderr } = await agent.runThere('join', '--token', await fleet.token('my-vm'));
    if (code !== 0) throw new Error(stderr);
    const began = performance.now();
    agent.start();
    await agent.untilStatus(
      'all addresses are enforced',
      ({ datapath, policy }) =>
        datapath.applied && datapath.entries.addresses >= ADDRESSES && policy.ingress === 'Enabled',
      180_000,
    );
    const seconds = (performance.now() - began) / 1000;
    const ear = this.#start(agent.place, 'fleet-ear.ts', []);
    createInterface({ input: stdoutOf(ear) }).on('line', (line) => {
      const [address, time] = line.split(' ').map(Number) as [number, number];
      if (!this.#heard.has(address)) this.#heard.set(address, time);
    });
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    return seconds;
  }

  /** Milliseconds, in order; what did not arrive is missing. */
  async #changes(world: (order: WorldOrder) => Promise<unknown>): Promise<number[]> {
    const order = { clusters: CLUSTERS, addresses: ADDRESSES / CLUSTERS, changes: CHANGES, rate: RATE };
    const made = (await world({ do: 'change', ...order })) as WorldChanges;
    await until('all have arrived', () => made.every(([address]) => this.#heard.has(address)), 20_000).catch(() => {});
    return made
      .flatMap(([address, time]) => {
        const heard = this.#heard.get(address);
        return heard === undefined ? [] : [heard - time];
      })
      .sort((a, b) => a - b);
  }

  #start(place: Place, script: string, args: readonly string[]): ChildProcess {
    const path = join(import.meta.dirname, script);
    const child = place.namespace.start(process.execPath, ['--no-warnings', path, ...args]);
    child.stderr?.pipe(process.stderr);
    this.#children.push(child);
    return child;
  }

  /** MB. */
  #memory(pid: number, what: 'VmRSS' | 'VmHWM'): number {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(new RegExp(`${what}:\\s+(\\d+)`).exec(status)?.[1]) / 1024;
  }
}

/** Of a process, since its start. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

function stdoutOf({ stdout }: ChildProcess): Readable {
  if (stdout === null) throw new Error('it has no output');
  return stdout;
}

function at(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
