/**
 * Packets through our table against connection tracking alone, in pairs within one run: two machines that differ in nothing
 * else, each with a peer of its own on a veth pair, are measured in turn, in many short slices.
 */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Namespace } from '../test/lab/namespace.ts';
import type { Ask } from './datapath-load.ts';
import { compareInPairs, SLICE_MS, TRACKING } from './pairs.ts';
import type { Row } from './row.ts';

const SCRIPT = join(import.meta.dirname, 'datapath-load.ts');
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
          const share = await compareInPairs(
            () => plain.measure(kind),
            () => ours.measure(kind),
          );
          const value = Math.round(share * 100) / 100;
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
