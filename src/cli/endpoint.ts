import type { Command } from 'commander';
import type { EndpointRecord } from '../api/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { command, group, Option } from './command.ts';
import { EXIT } from './exit-code.ts';
import { clusterOption, given, selectorOption } from './filters.ts';
import { type Column, writeList } from './output.ts';

interface Options {
  readonly selector?: string;
  readonly cluster?: string;
  readonly all?: boolean;
}

export function endpointCommands(): Command {
  return group('endpoint', 'This machine, and the endpoints of the clusters', [
    command<Options>({
      name: 'list',
      summary: 'List this machine; with --all or a filter, also the endpoints that clusters announce',
      examples: [
        ['endpoint list', 'this machine'],
        ['endpoint list --all --cluster cluster-b', 'what cluster-b announces'],
        ['endpoint list --selector reserved:remote-node', 'nodes of the clusters'],
        ['endpoint list --selector k8s:app=web,env!=test', 'all terms must match'],
      ],
      shared: SHOWS_AGENT,
      options: [selectorOption(), clusterOption(), new Option('--all', 'also those of clusters')],
      async run(call) {
        const { selector, cluster, all } = call.options;
        const everyone = all === true || selector !== undefined || cluster !== undefined;
        await writeList({
          terminal: call.terminal,
          format: call.options.output,
          kind: 'EndpointList',
          records: askAgent(call).endpoints({ all: everyone, ...given({ selector, cluster }) }),
          columns: COLUMNS,
          compare: (a, b) => Number(b.local) - Number(a.local) || a.id - b.id,
        });
        return EXIT.ok;
      },
    }),
  ]);
}

const COLUMNS: readonly Column<EndpointRecord>[] = [
  // Endpoint numbers mean something on their own machine only.
  { heading: 'ENDPOINT', cell: ({ local, id }) => (local ? String(id) : '-') },
  { heading: ['POLICY (ingress)', 'ENFORCEMENT'], cell: ({ policyIngress }) => policyIngress },
  { heading: ['POLICY (egress)', 'ENFORCEMENT'], cell: ({ policyEgress }) => policyEgress },
  { heading: 'IDENTITY', cell: ({ identity }) => String(identity) },
  { heading: 'LABELS (source:key[=value])', cell: ({ labels }) => labels },
  { heading: 'IPv6', cell: ({ ipv6 }) => ipv6 ?? '' },
  { heading: 'IPv4', cell: ({ ipv4 }) => ipv4 ?? '' },
  { heading: 'STATUS', cell: ({ status }) => status },
  { heading: 'NAME', wide: true, cell: ({ cluster, name }) => `${cluster}/${name}` },
];
