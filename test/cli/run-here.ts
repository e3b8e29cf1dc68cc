import { PassThrough } from 'node:stream';
import { runCommandLine } from '../../src/cli/program.ts';
import type { Ran } from './run-command.ts';

/** Runs a command line in this process, for what needs no agent: usage and help. */
export async function runHere(args: readonly string[]): Promise<Ran> {
  const out = new PassThrough();
  const error = new PassThrough();
  const terminal = { out, error, env: {}, interactive: false, color: false, columns: undefined };
  const code = await runCommandLine(args, terminal);
  const text = (stream: PassThrough): string => (stream.read() as Buffer | null)?.toString() ?? '';
  return { code, stdout: text(out), stderr: text(error) };
}
