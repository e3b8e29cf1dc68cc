import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Namespace } from '../test/lab/namespace.ts';
import type { Ask } from './datapath-load.ts';
import { SLICE_MS } from './pairs.ts';

export const LOAD_SCRIPT = join(import.meta.dirname, 'datapath-load.ts');
export const MACHINE = '10.200.0.1';
export const PEER = '10.200.0.2';

/** Two programs of `datapath-load.ts`: one serves in a network namespace, the other asks it from another. */
export class Load {
  readonly #asker: Lines;

  private constructor(asker: Lines) {
    this.#asker = asker;
  }

  static async start(serves: Namespace, asks: Namespace): Promise<Load> {
    const begin = (where: Namespace, role: string): Lines =>
      new Lines(where.start(process.execPath, ['--no-warnings', LOAD_SCRIPT, role]));
    const [server, asker] = [begin(serves, 'serve'), begin(asks, 'ask')];
    await server.next();
    await asker.next();
    return new Load(asker);
  }

  /** One slice. @returns a rate */
  async measure(kind: Ask['kind'], host: string): Promise<number> {
    this.#asker.say({ kind, host, ms: SLICE_MS } satisfies Ask);
    const value = await this.#asker.next();
    if (typeof value !== 'number') throw new Error(`${kind}: ${String(value)}`);
    return value;
  }
}

/** A machine and a peer on a veth pair, with load from one to the other. */
export class LoadedMachine {
  readonly namespace: Namespace;
  readonly #peer: Namespace;
  readonly #load: Load;

  private constructor(namespace: Namespace, peer: Namespace, load: Load) {
    this.namespace = namespace;
    this.#peer = peer;
    this.#load = load;
  }

  static async start(label: string, serves: 'machine' | 'peer'): Promise<LoadedMachine> {
    const namespace = new Namespace(`bench-${label}`);
    const peer = new Namespace(`bench-${label}-p`);
    namespace.connect(peer, {
      device: 'eth0',
      peerDevice: 'eth0',
      addresses: [`${MACHINE}/24`],
      peerAddresses: [`${PEER}/24`],
    });
    const load = await (serves === 'machine' ? Load.start(namespace, peer) : Load.start(peer, namespace));
    return new LoadedMachine(namespace, peer, load);
  }

  measure(kind: Ask['kind'], host: string): Promise<number> {
    return this.#load.measure(kind, host);
  }

  async close(): Promise<void> {
    await this.#peer.close();
    await this.namespace.close();
  }
}

/** A program that answers line by line. */
class Lines {
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
