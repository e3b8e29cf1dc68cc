import type { Command } from 'commander';
import type { NameRecord } from '../api/policy-types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { command, group } from './command.ts';
import { EXIT } from './exit-code.ts';
import { type Column, writeList } from './output.ts';
import { span } from './words.ts';

export function fqdnCommands(): Command {
  return group('fqdn', 'DNS names that policies may name', [
    command({
      name: 'list',
      summary: 'List the DNS names that the machine has resolved, with their addresses',
      details:
        'Names are learnt from the answers that the machine receives, while some policy has toFQDNs. An address stays until its lifetime is over, and as long as a connection to it lives.',
      examples: [['fqdn list', 'all']],
      shared: SHOWS_AGENT,
      async run(call) {
        await writeList({
          terminal: call.terminal,
          format: call.options.output,
          kind: 'NameList',
          records: askAgent(call).names(),
          columns: columns(Date.now()),
        });
        return EXIT.ok;
      },
    }),
  ]);
}

const columns = (now: number): readonly Column<NameRecord>[] => [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'ADDRESSES', cell: ({ addresses }) => addresses.map(({ address }) => address) },
  {
    heading: 'EXPIRES',
    cell: ({ addresses }) =>
      addresses.map(({ expires, live }) => (live ? 'kept for a connection' : `in ${span(expires - now)}`)),
  },
  { heading: 'SELECTORS', cell: ({ selectors }) => selectors },
];
