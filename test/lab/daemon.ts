import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import type { BpfFileSystem } from './bpf.ts';
import { endProcess } from './namespace.ts';
import type { Place } from './place.ts';

/** A command and its first arguments. */
export type Program = readonly [string, ...string[]];

/** The program under test: the sources, or what `MESH_AGENT` names (`dist/mesh-agent`). */
export const PROGRAM: Program =
  process.env.MESH_AGENT === undefined
    ? [process.execPath, '--no-warnings', join(import.meta.dirname, '../../src/main.ts')]
    : [process.env.MESH_AGENT];

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const KEPT_LOG = 200_000;

/** The program under test as a daemon in a place, over as many runs as a test needs. */
export class Daemon<Where extends Place = Place> {
  readonly place: Where;
  /** What the next start and the next command run: another one between two runs is an upgrade. */
  program = PROGRAM;
  #child: ChildProcess | undefined;
  #log = '';

  constructor(place: Where) {
    this.place = place;
  }

  /** The end of what it logged, over all runs. */
  get log(): string {
    return this.#log;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get running(): boolean {
    return this.#child !== undefined && this.exit === undefined;
  }

  /** How the last run ended. */
  get exit(): { readonly code: number | null } | undefined {
    const { exitCode = null, signalCode = null } = this.#child ?? {};
    return exitCode === null && signalCode === null ? undefined : { code: exitCode };
  }

  async stop(): Promise<void> {
    if (this.#child !== undefined) await endProcess(this.#child);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.running) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  /** Does not wait for anything. It outlives nobody: a killed test takes it along. */
  protected launch(run: readonly string[]): void {
    const prefix = [this.#net, 'setpriv', '--pdeathsig', 'KILL'];
    const child = spawn('nsenter', [...prefix, ...this.#machine.around(...run)], { stdio: ['ignore', 'pipe', 'pipe'] });
    const keep = (data: Buffer): void => {
      this.#log = (this.#log + data.toString()).slice(-KEPT_LOG);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => keep(Buffer.from(error.message)));
    this.#child = child;
  }

  /** One command line of the program, run in the place. */
  protected executeThere(args: readonly string[]): Promise<CommandResult> {
    return execute('nsenter', [this.#net, ...this.#machine.around(...this.program, ...args)]);
  }

  /** For the message of a test that fails. */
  protected tail(): string {
    return `log:\n${this.#log.slice(-6000)}`;
  }

  get #machine(): BpfFileSystem {
    return this.place.namespace.bpf;
  }

  get #net(): string {
    return `--net=/run/netns/${this.place.namespace.name}`;
  }
}

/** Runs a program to its end, whatever that is. */
export function execute(command: string, args: readonly string[]): Promise<CommandResult> {
  return new Promise((resolve) => {
    execFile(command, args, { maxBuffer: 1 << 28, timeout: 60_000 }, (error, stdout, stderr) =>
      resolve({ code: exitCode(error), stdout, stderr }),
    );
  });
}

function exitCode(error: Error | null): number {
  const code = error === null ? 0 : (error as { code?: unknown }).code;
  return typeof code === 'number' ? code : -1;
}
