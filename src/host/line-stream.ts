import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { messageOf } from '../core/errors.ts';
import { CommandError } from './command.ts';

const MAX_STDERR = 4000;

/**
 * The lines that a program writes, while it runs; whoever stops reading ends it. Lines are as long as the program makes
 * them: for programs that are trusted. @throws CommandError when it cannot be started, or ends with another code than 0
 */
export async function* streamLines(command: string, args: readonly string[]): AsyncGenerator<string> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(0, MAX_STDERR);
  });
  const failed = once(child, 'error').then(([error]: unknown[]) => error);
  const ended = once(child, 'close').then(([code]: unknown[]) => code);
  failed.catch(() => undefined);
  ended.catch(() => undefined);
  try {
    yield* createInterface({ input: child.stdout, crlfDelay: Number.POSITIVE_INFINITY });
    const code = await Promise.race([ended, failed]);
    if (code instanceof Error) {
      const missing = (code as NodeJS.ErrnoException).code === 'ENOENT';
      const detail = missing ? `${command} is not installed` : messageOf(code);
      throw new CommandError(detail, { failure: missing ? 'missing' : 'start', cause: code });
    }
    if (code !== 0)
      throw new CommandError(`${command}: exit code ${String(code)}: ${said.trim()}`, {
        failure: 'exit',
        stderr: said,
      });
  } finally {
    child.kill('SIGTERM');
  }
}
