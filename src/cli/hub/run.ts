import type { Command } from 'commander';
import { command } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { hubSocketOf, stateDirOf } from './place.ts';

export function hubRunCommand(): Command {
  return command({
    name: 'run',
    summary: 'Run the hub in the foreground, as the service manager does',
    details: 'Its etcd runs as long as it does. Several hubs on one etcd elect one that leads.',
    examples: [['hub run', 'the hub in /var/lib/mesh-agent/hub']],
    shared: ['stateDir', 'socket'],
    async run(call) {
      const { loadHub } = await import('../../hub/init.ts');
      const { runHub } = await import('../../hub/run.ts');
      const code = await runHub({ ...loadHub(stateDirOf(call)), socket: hubSocketOf(call) });
      return code === 0 ? EXIT.ok : EXIT.failure;
    },
  });
}
