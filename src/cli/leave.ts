import type { Command } from 'commander';
import type { LeaveReport } from '../agent/join/leave.ts';
import { MeshError } from '../core/errors.ts';
import { type Call, command, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { configFileOf, load } from './join.ts';
import { writeRecord } from './output.ts';

interface Options {
  readonly yes?: true;
  readonly local?: true;
}

export function leaveCommand(): Command {
  return command<Options>({
    name: 'leave',
    summary: 'Leave the mesh: deregister, remove every rule, device, route and key of ours',
    details:
      'An agent that runs is stopped first: by systemctl when it is the unit, else by SIGTERM. Without a hub in reach the registration ends with ' +
      'its lease. What the operator wrote stays. Nothing is enforced on this machine afterwards. Exit code: 6 without --yes.',
    examples: [
      ['leave --yes', 'after that the machine is as it was before it joined'],
      ['leave --yes --local', 'it stays a member: the agent goes on when it is started again'],
    ],
    shared: ['config', 'stateDir', 'socket', 'output'],
    options: [
      new Option('--yes', 'do it'),
      new Option('--local', 'only remove rules, device and routes from this machine'),
    ],
    run: leave,
  });
}

async function leave(call: Call<Options>): Promise<ExitCode> {
  const { options, terminal } = call;
  const { config } = await load(call);
  if (options.yes !== true)
    throw new MeshError(
      'JOIN-CONSENT',
      options.local === true
        ? 'rules, device and routes are removed: nothing is enforced until the agent is started again'
        : `${config.name} leaves the mesh: its rules, keys and registration are removed, and nothing is enforced any more`,
    );
  const { joinFiles } = await import('../agent/join/files.ts');
  const { clearMachine, leaveMesh } = await import('../agent/join/leave.ts');
  const task = {
    config,
    files: joinFiles(config.stateDir, configFileOf(call)),
    onStep: (step: string) => terminal.error.write(`${step}\n`),
  };
  if (options.local === true) {
    await clearMachine(task);
    return EXIT.ok;
  }
  const report = await leaveMesh(task);
  const record = { apiVersion: 'mesh-agent/v1', kind: 'Left', name: config.name, ...report };
  await writeRecord({ terminal, format: options.output, record, table: () => reportText(config.name, report) });
  return EXIT.ok;
}

function reportText(name: string, { agent, deregistered, revoked, removed }: LeaveReport): string {
  const agents = {
    'not-running': 'The agent did not run.',
    'unit-stopped': 'The unit mesh-agent.service was stopped; it is still enabled: systemctl disable mesh-agent.',
    'process-stopped': 'The agent was stopped.',
  };
  const where = deregistered ? 'The registration is removed' : 'The registration ends with its lease';
  const certificate = revoked ? 'the hub ended the certificate' : 'the hub was not told';
  return `${name} left the mesh. ${agents[agent]}\n${where}; ${certificate}; ${removed.length} files removed.\n`;
}
