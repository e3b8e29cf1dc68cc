import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { endProcess, type Namespace, until } from './namespace.ts';

/** The answer of a command that failed. */
export class WorkerError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

interface Answer {
  readonly ready?: boolean;
  readonly drift?: string;
  readonly id?: number;
  readonly result?: unknown;
  readonly error?: string;
  readonly code?: string;
}

/** A script that runs in a namespace and answers one line of JSON with one line of JSON; `drift` lines come between. */
export class JsonWorker {
  readonly drifts: string[] = [];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #ready = false;
  #errors = '';
  #next = 1;

  private constructor(namespace: Namespace, script: string, args: readonly string[]) {
    this.#child = namespace.start(process.execPath, [script, ...args]);
    const { stdout, stderr } = this.#child;
    if (stdout === null || stderr === null) throw new Error('no pipes');
    stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    createInterface({ input: stdout }).on('line', (line) => this.#answer(JSON.parse(line)));
    this.#child.once('exit', (code) => {
      const error = new Error(`worker ended with ${code}: ${this.#errors}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    });
  }

  static async start(namespace: Namespace, script: string, ...args: string[]): Promise<JsonWorker> {
    const worker = new JsonWorker(namespace, script, args);
    await until('the worker is ready', () => {
      if (worker.#child.exitCode !== null) throw new Error(worker.#errors);
      return worker.#ready;
    });
    return worker;
  }

  #answer(record: Answer): void {
    if (record.ready === true) this.#ready = true;
    if (record.drift !== undefined) this.drifts.push(record.drift);
    const waiting = record.id === undefined ? undefined : this.#waiting.get(record.id);
    if (record.id === undefined || waiting === undefined) return;
    this.#waiting.delete(record.id);
    if (record.error !== undefined) waiting.reject(new WorkerError(record.code ?? 'none', record.error));
    else waiting.resolve(record.result);
  }

  send(command: object): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.stdin?.write(`${JSON.stringify({ id, ...command })}\n`);
    });
  }

  async stop(): Promise<void> {
    await endProcess(this.#child);
  }
}
