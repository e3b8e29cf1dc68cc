import { resolve } from 'node:path';
import type { Command } from 'commander';
import { command, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { write } from '../output.ts';
import { stateDirOf } from './place.ts';

export function hubBackupCommand(): Command {
  return command({
    name: 'backup <file>',
    summary: 'Write everything that the hub knows into one file, while it runs',
    details: 'The file holds the key of the certificate authority: whoever has it can let machines in.',
    examples: [['hub backup /root/hub.tar', 'for this machine or another one']],
    shared: ['stateDir'],
    async run(call) {
      const { loadHub } = await import('../../hub/init.ts');
      const { backupHub } = await import('../../hub/backup.ts');
      const file = resolve(call.args[0] ?? '');
      const report = await backupHub({ ...loadHub(stateDirOf(call)), file });
      const data =
        report.snapshot === 0 ? 'keys and configuration, without the given etcd' : `${report.snapshot} bytes of data`;
      await write(call.terminal.out, `The hub of cluster ${report.cluster.name} is in ${file}: ${data}.\n`);
      return EXIT.ok;
    },
  });
}

export function hubRestoreCommand(): Command {
  return command<{ readonly force?: true }>({
    name: 'restore <file>',
    summary: 'Make a hub from a backup',
    details:
      'Machines and clusters read everything again. A machine that was revoked after the backup must be revoked again.',
    examples: [
      ['hub restore /root/hub.tar', 'where there is no hub'],
      ['hub restore /root/hub.tar --force', 'moves the hub that is there aside'],
    ],
    shared: ['stateDir'],
    options: [new Option('--force', 'move the hub that is there aside')],
    async run(call) {
      const { restoreHub } = await import('../../hub/backup.ts');
      const file = resolve(call.args[0] ?? '');
      const report = await restoreHub({ stateDir: stateDirOf(call), file, force: call.options.force === true });
      const aside = report.replaced === undefined ? '' : `The former hub is in ${report.replaced}.\n`;
      await write(
        call.terminal.out,
        `The hub of cluster ${report.cluster.name} is as it was at ${report.createdAt}.\n${aside}Start it: mesh-agent hub run\n`,
      );
      return EXIT.ok;
    },
  });
}
