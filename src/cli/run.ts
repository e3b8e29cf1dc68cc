import type { Command } from 'commander';
import { command } from './command.ts';
import { configOptions, loadFor } from './config-options.ts';
import { EXIT } from './exit-code.ts';

export function runCommand(): Command {
  return command({
    name: 'run',
    summary: 'Run the agent in the foreground, as the service manager does',
    details:
      'Options go over MESH_AGENT_* variables, which go over conf.d/*.yaml, which go over the configuration file. ' +
      'When the agent ends, its rules stay in force.',
    examples: [
      ['run', 'with /etc/mesh-agent/config.yaml'],
      ['run --config ./config.yaml --state-dir ./state --socket ./agent.sock', 'beside another agent'],
      ['run --log-level debug', 'to see more'],
    ],
    shared: ['config', 'stateDir', 'socket'],
    options: configOptions(),
    async run(call) {
      const loaded = await loadFor(call);
      // Loaded here, so that the commands that only ask an agent start without the daemon's code.
      const { runAgent } = await import('../agent/run.ts');
      const code = await runAgent(loaded);
      return code === 0 ? EXIT.ok : EXIT.failure;
    },
  });
}
