import type { Command } from 'commander';
import { askList, askRecord } from '../../api/ask.ts';
import type { NewTokenRecord, TokenRecord } from '../../api/enrolment.ts';
import { command, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { write, writeList, writeRecord } from '../output.ts';
import { span } from '../words.ts';
import { hubOf, seconds, whoAsks } from './asking.ts';

/** `hub workload token NAME`, with `list` and `withdraw` below it. */
export function tokenCommand(): Command {
  return command<{ readonly ttl?: number }>({
    name: 'token <name>',
    summary: 'Make a join token for a workload: it lets one machine in, once',
    details:
      'The token is shown this once; the hub keeps a hash of it. On a terminal, what to do with it is said beside it.',
    examples: [
      ['hub workload token web-1', 'for an hour'],
      ['hub workload token web-1 --ttl 10m', 'for ten minutes'],
      ['hub workload token list', 'tokens and what became of them'],
      ['hub workload token withdraw 0123456789abcdef0123', 'it is worth nothing from now on'],
    ],
    shared: ['socket', 'output'],
    options: [new Option('--ttl <time>', 'its life: 90s, 30m, 1h, 7d (default: 1h)').argParser(seconds)],
    async run(call) {
      const { terminal, options } = call;
      const body = {
        workload: call.args[0] ?? '',
        by: whoAsks(terminal),
        ...(options.ttl !== undefined && { ttlSeconds: options.ttl }),
      };
      const record = await askRecord<NewTokenRecord>(hubOf(call), '/v1/tokens', { method: 'POST', body });
      await writeRecord({ terminal, format: options.output, record, table: () => `${record.token}\n` });
      if (options.output === 'table' || options.output === 'wide') {
        const life = span(record.expiresAt - record.createdAt);
        await write(
          terminal.error,
          `For ${record.workload}, for one machine, for ${life}. On that machine:\n  ${record.command.replace(record.token, 'TOKEN')}\n`,
        );
      }
      return EXIT.ok;
    },
  })
    .addCommand(listCommand())
    .addCommand(withdrawCommand());
}

function listCommand(): Command {
  return command({
    name: 'list',
    summary: 'List the join tokens of the last days and what became of them',
    examples: [['hub workload token list', 'the newest first']],
    shared: ['socket', 'output'],
    async run(call) {
      await writeList<TokenRecord>({
        terminal: call.terminal,
        format: call.options.output,
        kind: 'JoinTokenList',
        records: askList<TokenRecord>(hubOf(call), '/v1/tokens'),
        columns: [
          { heading: 'ID', cell: ({ id }) => id },
          { heading: 'Workload', cell: ({ workload }) => workload },
          { heading: 'State', cell: ({ state }) => state },
          { heading: 'Expires', cell: ({ expiresAt }) => time(expiresAt) },
          {
            heading: 'Used',
            cell: ({ usedAt, usedFrom = '' }) => (usedAt === undefined ? '' : `${time(usedAt)} ${usedFrom}`),
          },
          { heading: 'Created', wide: true, cell: ({ createdAt, createdBy }) => `${time(createdAt)} ${createdBy}` },
        ],
      });
      return EXIT.ok;
    },
  });
}

function withdrawCommand(): Command {
  return command({
    name: 'withdraw <id>',
    summary: 'Withdraw a join token that was not used',
    examples: [['hub workload token withdraw 0123456789abcdef0123', 'by the id that `list` shows']],
    shared: ['socket'],
    async run(call) {
      const id = call.args[0] ?? '';
      const by = new URLSearchParams({ by: whoAsks(call.terminal) });
      await askRecord(hubOf(call), `/v1/tokens/${encodeURIComponent(id)}?${by}`, { method: 'DELETE' });
      await write(call.terminal.out, `Token ${id} is withdrawn.\n`);
      return EXIT.ok;
    },
  });
}

export function time(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');
}
