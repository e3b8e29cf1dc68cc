import type { Command } from 'commander';
import { askList } from '../../api/ask.ts';
import type { AuditRecord } from '../../api/enrolment.ts';
import { command, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { given } from '../filters.ts';
import { writeList } from '../output.ts';
import { hubOf } from './asking.ts';
import { time } from './token.ts';

interface Options {
  readonly workload?: string;
  readonly event?: string;
}

/** `hub audit` */
export function auditCommand(): Command {
  return command<Options>({
    name: 'audit',
    summary: 'Show who joined, who registered, who was refused and why, who was revoked, and by whom',
    details: 'The oldest first. The last 10,000 events of registrations are kept, and the last 10,000 acts besides.',
    examples: [
      ['hub audit', 'all'],
      ['hub audit --workload web-1', 'of one workload'],
      ['hub audit --event join-refused -o json', 'for scripts'],
    ],
    shared: ['socket', 'output'],
    options: [
      new Option('--workload <name>', 'of one workload'),
      new Option('--event <event>', 'of one kind, such as joined or join-refused'),
    ],
    async run(call) {
      const { terminal, options } = call;
      const { workload, event } = options;
      const query = new URLSearchParams(given({ workload, event }));
      await writeList<AuditRecord>({
        terminal,
        format: options.output,
        kind: 'AuditList',
        records: askList<AuditRecord>(hubOf(call), `/v1/audit${query.size === 0 ? '' : `?${query}`}`),
        columns: [
          { heading: 'Time', cell: ({ at }) => time(at) },
          { heading: 'Event', cell: ({ event: kind }) => kind },
          { heading: 'Workload', cell: (record) => record.workload ?? '' },
          { heading: 'By', cell: ({ by = '' }) => by },
          { heading: 'From', cell: ({ from = '' }) => from },
          { heading: 'Why', cell: whyOf },
          { heading: 'Token', wide: true, cell: ({ token = '' }) => token },
          { heading: 'Serial', wide: true, cell: ({ serial = '' }) => serial },
          { heading: 'Session', wide: true, cell: ({ session = '' }) => session },
        ],
      });
      return EXIT.ok;
    },
  });
}

function whyOf({ code, reason = '', suppressed }: AuditRecord): string {
  const more = suppressed === undefined ? '' : ` (and ${suppressed} more before it)`;
  return `${reason}${code === undefined ? '' : ` (${code})`}${more}`.trim();
}
