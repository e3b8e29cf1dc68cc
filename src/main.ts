import { runCommandLine } from './cli/program.ts';
import { openTerminal } from './cli/terminal.ts';

/** The entry. The exit code is set, not forced, so that output which is still on its way arrives. */
runCommandLine(process.argv.slice(2), openTerminal(process)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    process.stderr.write(`mesh-agent: internal error: ${error instanceof Error ? error.stack : String(error)}\n`);
    process.exitCode = 1;
  },
);
