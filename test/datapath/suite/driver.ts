import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { KernelConnection } from '../../../src/datapath/connection.ts';
import type {
  ApplyReport,
  DatapathStatus,
  KernelAddress,
  KernelFrontend,
  KernelPolicyRow,
} from '../../../src/datapath/datapath.ts';
import { endProcess, type Namespace, until } from '../../lab/namespace.ts';
import type { Spec } from './spec.ts';

/** `sockets`: nftables with services at the socket; `bpf-services`: eBPF with services by packets; `bpf-clsact`: as on kernels without tcx. */
export type DatapathName = 'nftables' | 'sockets' | 'bpf' | 'bpf-services' | 'bpf-clsact';

export interface DriverEvent {
  readonly event: string;
  readonly what?: string;
  readonly message?: string;
}

export class DriverError extends Error {
  readonly code: string;
  constructor({ code, message }: { code: string; message: string }) {
    super(message);
    this.code = code;
  }
}

/** A data path in a process of its own in a network namespace. */
export class Driver {
  readonly events: DriverEvent[] = [];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(answer: never): void; reject(error: Error): void }>();
  #lastId = 0;
  #ended = false;

  private constructor(child: ChildProcess) {
    this.#child = child;
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
    lines.on('line', (line) => this.#hear(JSON.parse(line)));
    child.stderr?.pipe(process.stderr);
    // Killed in the midst of an order: who waits for the answer hears of the end.
    child.stdin?.on('error', () => undefined);
    child.once('exit', () => {
      this.#ended = true;
      for (const waiting of this.#waiting.values()) waiting.reject(new Error('the worker ended'));
    });
  }

  /** Starts a process and opens the data path in it. `offset` makes it number its classes in another way. */
  static async start(
    name: DatapathName,
    namespace: Namespace,
    options: { offset?: number; env?: NodeJS.ProcessEnv; via?: readonly string[] } = {},
  ): Promise<Driver> {
    const driver = await Driver.spawn(name, namespace, options);
    await driver.order('open');
    return driver;
  }

  /** The process alone: `order('open')` follows. `via` is a program that runs it. */
  static async spawn(
    name: DatapathName,
    namespace: Namespace,
    options: { offset?: number; env?: NodeJS.ProcessEnv; via?: readonly string[] } = {},
  ): Promise<Driver> {
    const script = join(import.meta.dirname, 'worker.ts');
    const [command = process.execPath, ...args] = [...(options.via ?? []), process.execPath, '--no-warnings', script];
    const env = { ...(name.startsWith('bpf') && { MESH_TEST_BPF: namespace.bpf.path }), ...options.env };
    const child = namespace.start(command, [...args, name, String(options.offset ?? 0)], { env });
    const driver = new Driver(child);
    await until('the worker is ready', () => driver.events.some(({ event }) => event === 'ready'));
    return driver;
  }

  apply(spec: Spec, by: 'everything' | 'changes' = 'changes'): Promise<ApplyReport> {
    return this.order('apply', { spec, by });
  }

  addresses(): Promise<KernelAddress[]> {
    return this.order('addresses');
  }

  policy(): Promise<KernelPolicyRow[]> {
    return this.order('policy');
  }

  connections(): Promise<KernelConnection[]> {
    return this.order('connections');
  }

  services(): Promise<KernelFrontend[]> {
    return this.order('services');
  }

  status(): Promise<DatapathStatus> {
    return this.order('status');
  }

  order<Answer>(order: string, request: object = {}): Promise<Answer> {
    const id = ++this.#lastId;
    return new Promise<Answer>((resolve, reject) => {
      if (this.#ended) return reject(new Error('the worker has ended'));
      this.#waiting.set(id, { resolve, reject });
      this.#child.stdin?.write(`${JSON.stringify({ id, order, ...request })}\n`);
    });
  }

  /** Ends the process as a crash would. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }

  async close(): Promise<void> {
    await this.order('close').catch(() => undefined);
    await endProcess(this.#child);
  }

  #hear(message: { id?: number; answer?: never; error?: { code: string; message: string } } & DriverEvent): void {
    if (message.id === undefined) {
      this.events.push(message);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.error !== undefined) waiting?.reject(new DriverError(message.error));
    else waiting?.resolve(message.answer as never);
  }
}
