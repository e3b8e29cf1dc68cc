import { Command, CommanderError } from 'commander';
import { build } from '../host/build.ts';
import { bundleCommand } from './bundle/bundle.ts';
import { addSharedOptions, helpSettings, runNamed } from './command.ts';
import { completionCommand } from './completion.ts';
import { configCommands } from './config.ts';
import { doctorCommand } from './doctor/doctor.ts';
import { drainCommand } from './drain.ts';
import { endpointCommands } from './endpoint.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { fqdnCommands } from './fqdn.ts';
import { healthCommands } from './health.ts';
import { hubCommands } from './hub/hub.ts';
import { identityCommands } from './identity.ts';
import { ipcacheCommands } from './ipcache.ts';
import { joinCommand } from './join.ts';
import { kernelCommands } from './kernel.ts';
import { leaveCommand } from './leave.ts';
import { logsCommand } from './logs.ts';
import { monitorCommand } from './monitor.ts';
import { nodeCommands } from './node.ts';
import { policyCommands } from './policy.ts';
import { reportError } from './report-error.ts';
import { restoreCommand } from './restore.ts';
import { runCommand } from './run.ts';
import { serviceCommands } from './service.ts';
import { statusCommand } from './status.ts';
import type { Terminal } from './terminal.ts';
import { versionCommand } from './version.ts';

/** Runs one command line (without the program's name) to its end; the exit code. */
export async function runCommandLine(args: readonly string[], terminal: Terminal): Promise<ExitCode> {
  const program = commandTree();
  let named: Command | undefined;
  program.hook('preAction', (_program, action) => {
    named = action;
  });
  every(program, (each) => {
    each.exitOverride();
    each.configureHelp(helpSettings);
    each.configureOutput({
      writeOut: (text) => terminal.out.write(text),
      writeErr: (text) => terminal.error.write(text),
      getOutHelpWidth: () => Math.min(terminal.columns ?? 100, 120),
      getErrHelpWidth: () => Math.min(terminal.columns ?? 100, 120),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    });
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return named === undefined ? EXIT.usage : await runNamed(program, named, terminal);
  } catch (error) {
    // Help that was asked for is an answer, help that was not is a usage error.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    return reportError(error, terminal);
  }
}

/** Every command, in the order in which `--help` lists them. */
export function commandTree(): Command {
  const program = new Command('mesh-agent')
    .description('Joins this machine to a Cilium ClusterMesh and enforces its policies on the host.')
    .version(build.version, '--version', 'the version alone')
    .helpCommand(false);
  addSharedOptions(program);
  for (const each of [
    runCommand(),
    joinCommand(),
    leaveCommand(),
    drainCommand(),
    restoreCommand(),
    statusCommand(),
    doctorCommand(),
    bundleCommand(),
    endpointCommands(),
    identityCommands(),
    nodeCommands(),
    healthCommands(),
    serviceCommands(),
    ipcacheCommands(),
    logsCommand(),
    policyCommands(),
    fqdnCommands(),
    monitorCommand(),
    kernelCommands(),
    hubCommands(),
    configCommands(),
    versionCommand(),
    completionCommand(),
  ]) {
    program.addCommand(each);
  }
  return program;
}

function every(command: Command, visit: (command: Command) => void): void {
  visit(command);
  for (const each of command.commands) every(each, visit);
}
