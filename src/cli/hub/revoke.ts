import type { Command } from 'commander';
import { askRecord } from '../../api/ask.ts';
import { command } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { write } from '../output.ts';
import { plural } from '../words.ts';
import { hubOf, whoAsks } from './asking.ts';

/** `hub workload revoke NAME` */
export function revokeCommand(): Command {
  return command({
    name: 'revoke <name>',
    summary: "End a machine's certificates, open tokens and rights in the store, at once",
    details: 'The workload stays: with a new token a machine can join as it again.',
    examples: [['hub workload revoke web-1', 'the machine was stolen']],
    shared: ['socket'],
    async run(call) {
      const body = { workload: call.args[0] ?? '', by: whoAsks(call.terminal) };
      const { workload, certificates } = await askRecord<{ workload: string; certificates: number }>(
        hubOf(call),
        '/v1/revocations',
        { method: 'POST', body },
      );
      await write(
        call.terminal.out,
        `The machine of ${workload} has no rights any more; ${plural(certificates, 'certificate')} ended.\n`,
      );
      return EXIT.ok;
    },
  });
}
