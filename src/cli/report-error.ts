import { ConfigErrors } from '../config/config-errors.ts';
import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { printable } from '../observe/printable.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import type { Terminal } from './terminal.ts';

const EXIT_OF: Readonly<Partial<Record<ErrorCode, ExitCode>>> = {
  'API-UNREACHABLE': EXIT.unreachable,
  'API-DENIED': EXIT.unreachable,
  'HUB-UNREACHABLE': EXIT.unreachable,
  'API-REQUEST': EXIT.usage,
  'JOIN-UNREACHABLE': EXIT.unreachable,
  'JOIN-PRESENT': EXIT.consent,
  'JOIN-CONSENT': EXIT.consent,
  'API-QUESTION': EXIT.usage,
  'AGT-DRAIN': EXIT.notJoined,
};

/** A MeshError, or one that came in a record. */
export type Problem = Pick<MeshError, 'code' | 'message' | 'remedy'> & { readonly place?: string | undefined };

/** Says what went wrong, where, and what to do; the exit code. */
export function reportError(error: unknown, terminal: Terminal): ExitCode {
  if (error instanceof ConfigErrors) {
    terminal.error.write(problemsText(error.problems, 'mesh-agent'));
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
export function problemText(problem: Problem, label = 'mesh-agent'): string {
  return `${problemLine(problem, label)}  remedy: ${problem.remedy}\n`;
}

/** Many of them: a remedy that several share is said once, after the last of them. */
export function problemsText(problems: readonly Problem[], label: string): string {
  return problems
    .map((problem, index) =>
      problems[index + 1]?.code === problem.code ? problemLine(problem, label) : problemText(problem, label),
    )
    .join('');
}

function problemLine(problem: Problem, label: string): string {
  const place = problem.place === undefined ? '' : `${printable(problem.place)}: `;
  return `${label}: ${place}${printable(problem.message)} (${problem.code})\n`;
}
