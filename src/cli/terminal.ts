import type { Writable } from 'node:stream';

/** Where a command reads from and writes to; a test gives its own. */
export interface Terminal {
  readonly out: Writable;
  readonly error: Writable;
  readonly env: NodeJS.ProcessEnv;
  /** Whether a person looks at the output. */
  readonly interactive: boolean;
  readonly color: boolean;
  /** Cells in a line of the output; undefined when it goes to no terminal. */
  readonly columns: number | undefined;
}

interface Process {
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: NodeJS.ProcessEnv;
  exit(code: number): never;
}

/** The terminal of this process. A reader that left (`| head`) ends the program quietly. */
export function openTerminal(process: Process): Terminal {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0);
      throw error;
    });
  }
  const { env, stdout } = process;
  const interactive = stdout.isTTY === true;
  return {
    out: stdout,
    error: process.stderr,
    env,
    interactive,
    color: interactive && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb',
    columns: interactive ? stdout.columns : undefined,
  };
}
