import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { Backoff } from '../core/backoff.ts';
import { messageOf } from '../core/errors.ts';
import { sleep } from '../core/job.ts';
import { CommandError } from './command.ts';
import { lives, nameOf, type ProcessName, parseName } from './process-name.ts';

export interface ServiceProcessOptions {
  readonly command: string;
  /** Asked for at every start. */
  readonly arguments: () => readonly string[];
  /** Names the process that runs, so that one that outlived us is found again. */
  readonly pidFile: string;
  /** Every line that it writes, to standard output or error, cut at 16 KiB. */
  readonly onLine: (line: string) => void;
  readonly onChange: () => void;
  /** After SIGTERM it has so long, then SIGKILL; 10 s. */
  readonly stopMs?: number;
  readonly retryMinMs?: number;
  readonly retryMaxMs?: number;
}

export interface ServiceProcessStatus {
  /** `waiting`: it ended, and is started again after a pause. */
  readonly state: 'stopped' | 'running' | 'waiting';
  readonly pid: number | undefined;
  /** Milliseconds since the epoch. */
  readonly since: number;
  readonly starts: number;
  /** How it ended last by itself. */
  readonly lastExit:
    | { readonly at: number; readonly reason: string; readonly lastLines: readonly string[] }
    | undefined;
}

const STOP_MS = 10_000;
const STABLE_MS = 60_000;
const LAST_LINES = 5;
const MAX_LINE = 16 << 10;

/**
 * A program that runs as long as we do: started again when it ends, after a growing pause, and ended with us. When we are
 * killed the kernel ends it (`setpriv --pdeathsig`); should it live on all the same, the next start ends it first: it is
 * known by process id, time of its start and boot, so that no innocent process is hit.
 */
export class ServiceProcess {
  readonly #options: ServiceProcessOptions;
  readonly #backoff: Backoff;
  #abort: AbortController | undefined;
  #running: Promise<void> | undefined;
  #child: ChildProcess | undefined;
  #restarting = false;
  #state: ServiceProcessStatus['state'] = 'stopped';
  #since = Date.now();
  #starts = 0;
  #lastExit: ServiceProcessStatus['lastExit'];

  constructor(options: ServiceProcessOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ minMs: options.retryMinMs ?? 500, maxMs: options.retryMaxMs ?? 15_000 });
  }

  get status(): ServiceProcessStatus {
    const pid = this.#state === 'running' ? this.#child?.pid : undefined;
    return { state: this.#state, pid, since: this.#since, starts: this.#starts, lastExit: this.#lastExit };
  }

  /** Starts it; what happens then is told by `onChange`. @throws CommandError when there is no such program */
  async start(): Promise<void> {
    if (this.#running !== undefined) return;
    const program = findProgram(this.#options.command);
    await endFormer(this.#options.pidFile, this.#options.stopMs ?? STOP_MS);
    const abort = new AbortController();
    this.#abort = abort;
    this.#running = this.#run(program, abort.signal);
  }

  /** Ends it and starts it again at once. */
  async restart(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    this.#restarting = true;
    await end(child, this.#options.stopMs ?? STOP_MS);
  }

  /** Ends it for good. */
  async stop(): Promise<void> {
    this.#abort?.abort();
    if (this.#child !== undefined) await end(this.#child, this.#options.stopMs ?? STOP_MS);
    await this.#running;
    this.#running = undefined;
    this.#set('stopped');
  }

  async #run(program: string, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const began = performance.now();
      const exit = await this.#once(program);
      if (signal.aborted) break;
      if (this.#restarting) {
        this.#restarting = false;
        continue;
      }
      this.#lastExit = exit;
      if (performance.now() - began > STABLE_MS) this.#backoff.reset();
      this.#set('waiting');
      await sleep(this.#backoff.next(), signal);
    }
  }

  /** From start to end. */
  async #once(program: string): Promise<ServiceProcessStatus['lastExit']> {
    const lastLines: string[] = [];
    const onLine = (line: string): void => {
      const cut = line.slice(0, MAX_LINE);
      if (lastLines.push(cut) > LAST_LINES) lastLines.shift();
      this.#options.onLine(cut);
    };
    const args = ['--pdeathsig', 'TERM', '--', program, ...this.#options.arguments()];
    const child = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    const lines = [child.stdout, child.stderr].map((input) => {
      const reader = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
      reader.on('line', onLine);
      return new Promise((resolve) => reader.once('close', resolve));
    });
    const ended = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(messageOf(error)));
      child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `ended by ${signal}`));
    });
    if (child.pid !== undefined) writePid(this.#options.pidFile, child.pid);
    this.#starts++;
    this.#set('running');
    const reason = await ended;
    await Promise.race([Promise.all(lines), sleep(500)]);
    if (this.#child === child) this.#child = undefined;
    rmSync(this.#options.pidFile, { force: true });
    return { at: Date.now(), reason, lastLines };
  }

  #set(state: ServiceProcessStatus['state']): void {
    this.#state = state;
    this.#since = Date.now();
    this.#options.onChange();
  }
}

/** The program's file, searched in PATH and where the system keeps servers. */
function findProgram(command: string): string {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/bin', '/usr/bin', '/usr/sbin', '/bin'];
  for (const folder of folders.filter((each) => each !== '')) {
    const path = join(folder, command);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  throw new CommandError(`${command} is not installed`, { failure: 'missing' });
}

async function end(child: ChildProcess, stopMs: number): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
  await ended;
  clearTimeout(timer);
}

function writePid(path: string, pid: number): void {
  const name = nameOf(pid);
  if (name !== undefined) writeFileSync(path, JSON.stringify(name), { mode: 0o600 });
}

/** Ends the process of a life before, if it is still the same one. */
async function endFormer(path: string, stopMs: number): Promise<void> {
  const name = readName(path);
  if (name === undefined) return;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!lives(name)) break;
    try {
      process.kill(name.pid, signal);
    } catch {
      // It ended in between.
    }
    const deadline = Date.now() + stopMs;
    while (lives(name) && Date.now() < deadline) await sleep(20);
  }
  rmSync(path, { force: true });
}

function readName(path: string): ProcessName | undefined {
  try {
    return parseName(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}
