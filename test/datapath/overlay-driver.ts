import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { OverlayStatus } from '../../src/datapath/overlay/status.ts';
import { endProcess, type Namespace, until } from '../lab/namespace.ts';
import type { OverlayScene } from './overlay-state.ts';
import type { WorkerCommand } from './overlay-worker.ts';

export interface ApplyAnswer {
  readonly added: number;
  readonly removed: number;
  readonly refused: number;
  readonly tookMs: number;
  readonly blockedMs: number;
}

/** The answer of a command that failed. */
export class WorkerError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** An `Overlay` in a process of its own, inside a namespace. */
export class OverlayDriver {
  readonly drifts: string[] = [];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #ready = false;
  #errors = '';
  #next = 1;

  private constructor(namespace: Namespace) {
    this.#child = namespace.start(process.execPath, [join(import.meta.dirname, 'overlay-worker.ts')]);
    const { stdout, stderr } = this.#child;
    if (stdout === null || stderr === null) throw new Error('no pipes');
    stderr.setEncoding('utf8').on('data', (text: string) => (this.#errors += text));
    createInterface({ input: stdout }).on('line', (line) => this.#answer(JSON.parse(line)));
    this.#child.once('exit', (code) => {
      const error = new Error(`worker ended with ${code}: ${this.#errors}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    });
  }

  static async start(namespace: Namespace): Promise<OverlayDriver> {
    const driver = new OverlayDriver(namespace);
    await until('the worker is ready', () => {
      if (driver.#child.exitCode !== null) throw new Error(driver.#errors);
      return driver.#ready;
    });
    return driver;
  }

  #answer(record: {
    ready?: boolean;
    drift?: string;
    id?: number;
    result?: unknown;
    error?: string;
    code?: string;
  }): void {
    if (record.ready === true) this.#ready = true;
    if (record.drift !== undefined) this.drifts.push(record.drift);
    const waiting = record.id === undefined ? undefined : this.#waiting.get(record.id);
    if (record.id === undefined || waiting === undefined) return;
    this.#waiting.delete(record.id);
    if (record.error !== undefined) waiting.reject(new WorkerError(record.code ?? 'none', record.error));
    else waiting.resolve(record.result);
  }

  #send(command: Omit<WorkerCommand, 'id'>): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.stdin?.write(`${JSON.stringify({ id, ...command })}\n`);
    });
  }

  /** Prepares and applies; without a scene, the last one again. */
  async apply(scene?: OverlayScene, changes?: WorkerCommand['changes']): Promise<ApplyAnswer> {
    const command = { ...(scene && { scene }), ...(changes && { changes }) };
    return (await this.#send({ run: 'apply', ...command })) as ApplyAnswer;
  }

  async prepare(scene: OverlayScene): Promise<void> {
    await this.#send({ run: 'prepare', scene });
  }

  async status(): Promise<OverlayStatus> {
    return (await this.#send({ run: 'status' })) as OverlayStatus;
  }

  async endpoint(prefix: string): Promise<string | null> {
    return (await this.#send({ run: 'endpoint', prefix })) as string | null;
  }

  async remove(): Promise<void> {
    await this.#send({ run: 'remove' });
  }

  /** As if the agent stopped: nothing is undone. */
  async stop(): Promise<void> {
    await endProcess(this.#child);
  }
}
