/**
 * Packets through our table against connection tracking alone, in pairs within one run: two machines that differ in nothing
 * else, each with a peer of its own on a veth pair, are measured in turn, in many short slices.
 */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Namespace } from '../test/lab/namespace.ts';
import type { Ask } from './datapath-load.ts';
import type { Row } from './row.ts';

const PAIRS = 41;
const SLICE_MS = 120;
const SCRIPT = join(import.meta.dirname, 'datapath-load.ts');
const TRACKING = `
table inet tracking {
  chain enter { type filter hook prerouting priority -160; policy accept; ct state established accept; }
  chain leave { type filter hook postrouting priority 310; policy accept; ct state established accept; }
}`;
const TABLES = [
  { name: '10 addresses, 10 rows', size: 10, rows: 10 },
  { name: '1,000,000 addresses, 16,000 rows', size: 1_000_000, rows: 16_000 },
] as const;
const KINDS = [
  { kind: 'throughput', name: 'TCP throughput', bar: '> 98' },
  { kind: 'requests', name: 'UDP requests and answers', bar: '> 98' },
  { kind: 'connections', name: 'new TCP connections', bar: '> 97' },
] as const;

export async function run(): Promise<Row[]> {
  const plain = await Machine.start('plain');
  const rows: Row[] = [];
  try {
    plain.namespace.feed(TRACKING, 'nft', '-f', '-');
    for (const { name, size, rows: count } of TABLES) {
      const ours = await Machine.start('ours');
      try {
        ours.namespace.run(process.execPath, '--no-warnings', SCRIPT, 'table', String(size), String(count));
        for (const { kind, name: what, bar } of KINDS) {
          const value = await compare(kind, plain, ours);
          rows.push({ name: `${what}, ${name}: share of connection tracking alone`, value, unit: '%', bar });
        }
      } finally {
        await ours.close();
      }
    }
  } finally {
    await plain.close();
  }
  return rows;
}

/** Our share of the other's figure in percent. */
async function compare(kind: Ask['kind'], plain: Machine, ours: Machine): Promise<number> {
  await plain.measure(kind);
  await ours.measure(kind);
  const figures = { plain: [] as number[], ours: [] as number[] };
  for (let pair = 0; pair < PAIRS; pair++) {
    // Who comes first takes turns, for what drifts within a pair.
    const order = pair % 2 === 0 ? (['plain', 'ours'] as const) : (['ours', 'plain'] as const);
    for (const who of order) figures[who].push(await (who === 'ours' ? ours : plain).measure(kind));
  }
  return Math.round((undisturbed(figures.ours) / undisturbed(figures.plain)) * 10_000) / 100;
}

/** The median of the better half: what else runs on the machine only ever makes a slice slower. */
function undisturbed(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => b - a);
  return sorted[PAIRS >> 2] ?? 0;
}

/** A machine that serves, and a peer that asks it. */
class Machine {
  readonly namespace: Namespace;
  readonly #peer: Namespace;
  readonly #asker: Lines;

  private constructor(namespace: Namespace, peer: Namespace, asker: Lines) {
    this.namespace = namespace;
    this.#peer = peer;
    this.#asker = asker;
  }

  static async start(label: string): Promise<Machine> {
    const namespace = new Namespace(`bench-${label}`);
    const peer = new Namespace(`bench-${label}-p`);
    namespace.connect(peer, {
      device: 'eth0',
      peerDevice: 'eth0',
      addresses: ['10.200.0.1/24'],
      peerAddresses: ['10.200.0.2/24'],
    });
    const [server, asker] = [namespace, peer].map((where, index) => {
      const role = index === 0 ? 'serve' : 'ask';
      return new Lines(where.start(process.execPath, ['--no-warnings', SCRIPT, role]));
    }) as [Lines, Lines];
    await server.next();
    await asker.next();
    return new Machine(namespace, peer, asker);
  }

  async measure(kind: Ask['kind']): Promise<number> {
    this.#asker.say({ kind, host: '10.200.0.1', ms: SLICE_MS } satisfies Ask);
    const value = await this.#asker.next();
    if (typeof value !== 'number') throw new Error(`${kind}: ${String(value)}`);
    return value;
  }

  async close(): Promise<void> {
    await this.#peer.close();
    await this.namespace.close();
  }
}

/** A program that answers line by line. */
export class Lines {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(child: ChildProcess) {
    this.#child = child;
    child.stderr?.pipe(process.stderr);
    this.#lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  say(message: object): void {
    this.#child.stdin?.write(`${JSON.stringify(message)}\n`);
  }

  async next(): Promise<unknown> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error('a program of the bench ended');
    return JSON.parse(value);
  }
}
