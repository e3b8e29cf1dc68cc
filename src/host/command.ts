import { type ChildProcess, spawn } from 'node:child_process';
import { MeshError, messageOf } from '../core/errors.ts';

export interface CommandOptions {
  /** Written to standard input, which is empty otherwise. */
  readonly input?: string | Uint8Array;
  /** After that the program is killed (SIGKILL); 10 s by default. */
  readonly timeoutMs?: number;
  /** Bytes of standard output and of standard error, each; a program that says more is killed. 16 MiB by default. */
  readonly maxOutput?: number;
  /** A program that says more is no failure then: what it said until there is the result. */
  readonly cut?: boolean;
  readonly signal?: AbortSignal;
  /** Exit codes that are no failure; 0 alone by default. */
  readonly accept?: readonly number[];
}

export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number;
  readonly pid: number;
  /** It had more to say. */
  readonly cut: boolean;
}

export type CommandFailure = 'missing' | 'start' | 'exit' | 'signal' | 'timeout' | 'output' | 'aborted';

/** HST-COMMAND. `failure` tells the ways apart: `missing` means that there is no such program. */
export class CommandError extends MeshError {
  readonly failure: CommandFailure;
  readonly exitCode: number | undefined;
  readonly stderr: string;

  constructor(detail: string, facts: { failure: CommandFailure; exitCode?: number; stderr?: string; cause?: unknown }) {
    super('HST-COMMAND', detail, { cause: facts.cause });
    this.name = 'CommandError';
    this.failure = facts.failure;
    this.exitCode = facts.exitCode;
    this.stderr = facts.stderr ?? '';
  }
}

const TIMEOUT_MS = 10_000;
const MAX_OUTPUT = 16 << 20;
const STDERR_IN_MESSAGE = 2000;

/** Runs a program, without a shell, to its end. Output is read as UTF-8. Throws CommandError. */
export function run(command: string, args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    let failure: 'timeout' | 'output' | 'aborted' | undefined;
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const stop = (reason: 'timeout' | 'output' | 'aborted'): void => {
      failure ??= reason;
      child.kill('SIGKILL');
      // A grandchild may hold the pipes open for ever.
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const limit = options.maxOutput ?? MAX_OUTPUT;
    const stdout = collect(child.stdout, limit, () => stop('output'));
    const stderr = collect(child.stderr, limit, () => stop('output'));
    const timer = setTimeout(() => stop('timeout'), options.timeoutMs ?? TIMEOUT_MS);
    const onAbort = (): void => stop('aborted');
    options.signal?.addEventListener('abort', onAbort, { once: true });
    const finish = (): void => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    };
    child.on('error', (error: NodeJS.ErrnoException) => {
      finish();
      const kind = error.code === 'ENOENT' ? 'missing' : 'start';
      const detail = kind === 'missing' ? `${command} is not installed` : `${command}: ${messageOf(error)}`;
      reject(new CommandError(detail, { failure: kind, cause: error }));
    });
    child.on('close', (code, signal) => {
      finish();
      const cut = failure === 'output' && options.cut === true;
      const result = { stdout: stdout(), stderr: stderr(), code: code ?? -1, pid: child.pid ?? -1, cut };
      const accepted = cut || (failure === undefined && code !== null && (options.accept ?? [0]).includes(code));
      if (accepted) resolve(result);
      else reject(ended(command, { failure, code, signal, stderr: result.stderr }));
    });
    feed(child, options.input);
    if (options.signal?.aborted === true) onAbort();
  });
}

function collect(stream: NodeJS.ReadableStream, limit: number, onLimit: () => void): () => string {
  const chunks: Buffer[] = [];
  let length = 0;
  stream.on('data', (chunk: Buffer) => {
    length += chunk.length;
    if (length > limit) onLimit();
    else chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

function feed(child: ChildProcess, input: string | Uint8Array | undefined): void {
  // A program that ends without reading its input is judged by its exit code.
  child.stdin?.on('error', () => undefined);
  child.stdin?.end(input ?? '');
}

function ended(
  command: string,
  facts: {
    failure: 'timeout' | 'output' | 'aborted' | undefined;
    code: number | null;
    signal: string | null;
    stderr: string;
  },
): CommandError {
  const failure = facts.failure ?? (facts.signal !== null ? 'signal' : 'exit');
  const reasons: Record<typeof failure, string> = {
    timeout: 'took too long and was killed',
    output: 'wrote too much and was killed',
    aborted: 'was stopped',
    signal: `ended by ${facts.signal}`,
    exit: `exit code ${facts.code}`,
  };
  const said = facts.stderr.trim().slice(0, STDERR_IN_MESSAGE);
  const detail = `${command}: ${reasons[failure]}${said === '' ? '' : `: ${said}`}`;
  return new CommandError(detail, {
    failure,
    stderr: facts.stderr,
    ...(facts.code === null ? {} : { exitCode: facts.code }),
  });
}
