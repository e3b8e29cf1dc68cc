import type { Command } from 'commander';
import type { NodeRecord } from '../api/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { command, group } from './command.ts';
import { EXIT } from './exit-code.ts';
import { clusterOption, given, sourceOption } from './filters.ts';
import { type Column, writeList } from './output.ts';

interface Options {
  readonly cluster?: string;
  readonly source?: string;
}

export function nodeCommands(): Command {
  return group('node', 'Nodes of the clusters', [
    command<Options>({
      name: 'list',
      summary: 'List the nodes of all clusters, and this machine',
      examples: [
        ['node list', 'all'],
        ['node list --cluster cluster-b', 'those of cluster-b'],
        ['node list --source clustermesh', 'those of remote clusters'],
      ],
      shared: SHOWS_AGENT,
      options: [clusterOption(), sourceOption('local, kvstore, clustermesh')],
      async run(call) {
        const { cluster, source, output } = call.options;
        await writeList({
          terminal: call.terminal,
          format: output,
          kind: 'NodeList',
          records: askAgent(call).nodes(given({ cluster, source })),
          columns: COLUMNS,
          compare: (a, b) => fullName(a).localeCompare(fullName(b), 'en'),
        });
        return EXIT.ok;
      },
    }),
  ]);
}

const fullName = ({ cluster, name }: NodeRecord): string => `${cluster}/${name}`;

const COLUMNS: readonly Column<NodeRecord>[] = [
  { heading: 'Name', cell: fullName },
  { heading: 'IPv4 Address', cell: ({ ipv4 }) => ipv4 ?? '' },
  { heading: 'Endpoint CIDR', cell: ({ ipv4Range }) => ipv4Range ?? '' },
  { heading: 'IPv6 Address', cell: ({ ipv6 }) => ipv6 ?? '' },
  { heading: 'Endpoint CIDR', cell: ({ ipv6Range }) => ipv6Range ?? '' },
  { heading: 'Source', cell: ({ source }) => source },
];
