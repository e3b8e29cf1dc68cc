import { ConfigErrors } from '../config/config-errors.ts';
import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { printable } from '../observe/printable.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import type { Terminal } from './terminal.ts';

const EXIT_OF: Readonly<Partial<Record<ErrorCode, ExitCode>>> = {
  'API-UNREACHABLE': EXIT.unreachable,
  'API-DENIED': EXIT.unreachable,
  'API-REQUEST': EXIT.usage,
};

/** Says what went wrong, where, and what to do; the exit code. */
export function reportError(error: unknown, terminal: Terminal): ExitCode {
  if (error instanceof ConfigErrors) {
    for (const problem of error.problems) terminal.error.write(problemText(problem));
    return EXIT.failure;
  }
  if (error instanceof MeshError) {
    terminal.error.write(problemText(error));
    return EXIT_OF[error.code] ?? EXIT.failure;
  }
  terminal.error.write(`mesh-agent: ${printable(messageOf(error))}\n`);
  return EXIT.failure;
}

/** `mesh-agent: <place>: <what> (<code>)` and the remedy below. */
export function problemText(problem: MeshError, label = 'mesh-agent'): string {
  const place = problem.place === undefined ? '' : `${printable(problem.place)}: `;
  return `${label}: ${place}${printable(problem.message)} (${problem.code})\n  remedy: ${problem.remedy}\n`;
}
