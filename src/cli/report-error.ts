import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import type { Terminal } from './terminal.ts';

const UNREACHABLE: ReadonlySet<ErrorCode> = new Set(['API-UNREACHABLE']);

/** Says what went wrong, where, and what to do; the exit code. */
export function reportError(error: unknown, terminal: Terminal): ExitCode {
  if (!(error instanceof MeshError)) {
    terminal.error.write(`mesh-agent: ${messageOf(error)}\n`);
    return EXIT.failure;
  }
  const place = error.place === undefined ? '' : `${error.place}: `;
  terminal.error.write(`mesh-agent: ${place}${error.message} (${error.code})\n  remedy: ${error.remedy}\n`);
  return UNREACHABLE.has(error.code) ? EXIT.unreachable : EXIT.failure;
}
