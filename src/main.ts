import { runCommandLine } from './cli/program.ts';
import { openTerminal } from './cli/terminal.ts';

const END_MS = 100;

/** The entry. The exit code is set, not forced, so that output which is still on its way arrives. */
runCommandLine(process.argv.slice(2), openTerminal(process)).then(
  (code) => {
    process.exitCode = code;
    // A lookup or a handshake that nobody waits for any more must not keep a command from ending.
    setInterval(() => {
      if (process.stdout.writableLength + process.stderr.writableLength === 0) process.exit();
    }, END_MS).unref();
  },
  (error: unknown) => {
    process.stderr.write(`mesh-agent: internal error: ${error instanceof Error ? error.stack : String(error)}\n`);
    process.exitCode = 1;
  },
);
