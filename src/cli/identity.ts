import type { Command } from 'commander';
import { API_VERSION, type IdentityRecord } from '../api/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { command, group } from './command.ts';
import { EXIT } from './exit-code.ts';
import { clusterOption, given, identityArgument, selectorOption } from './filters.ts';
import { type Column, writeList, writeRecord } from './output.ts';
import { TableWriter } from './table.ts';

interface Options {
  readonly selector?: string;
  readonly cluster?: string;
}

export function identityCommands(): Command {
  return group('identity', 'Security identities', [list(), get()]);
}

function list(): Command {
  return command<Options>({
    name: 'list',
    summary: 'List the identities of all clusters, with their labels',
    examples: [
      ['identity list', 'all'],
      ['identity list --cluster cluster-b', 'those of cluster-b'],
      ['identity list --selector k8s:app=web', 'those with a label'],
      ['identity list -o wide', 'one line each, with the number of addresses'],
    ],
    shared: SHOWS_AGENT,
    options: [clusterOption(), selectorOption()],
    async run(call) {
      const { cluster, selector, output } = call.options;
      await writeList({
        terminal: call.terminal,
        format: output,
        kind: 'IdentityList',
        records: askAgent(call).identities(given({ cluster, selector })),
        columns: output === 'wide' ? WIDE : IDENTITY_COLUMNS,
        compare: (a, b) => a.id - b.id,
      });
      return EXIT.ok;
    },
  });
}

function get(): Command {
  return command({
    name: 'get',
    summary: 'Show one identity',
    arguments: [identityArgument()],
    examples: [['identity get 59102', 'by its number']],
    shared: SHOWS_AGENT,
    async run(call) {
      const record = await askAgent(call).identity(call.args[0] ?? '');
      await writeRecord({
        terminal: call.terminal,
        format: call.options.output,
        record: { apiVersion: API_VERSION, kind: 'Identity', ...record },
        table(wide) {
          const columns = wide ? WIDE : IDENTITY_COLUMNS;
          return new TableWriter(columns.map(({ heading }) => heading)).write([
            columns.map(({ cell }) => cell(record)),
          ]);
        },
      });
      return EXIT.ok;
    },
  });
}

export const IDENTITY_COLUMNS: readonly Column<IdentityRecord>[] = [
  { heading: 'ID', cell: ({ id }) => String(id) },
  { heading: 'LABELS', cell: ({ labels }) => labels },
];

/** For `grep`: what belongs together stands on one line. */
const WIDE: readonly Column<IdentityRecord>[] = [
  { heading: 'ID', cell: ({ id }) => String(id) },
  { heading: 'CLUSTER', cell: ({ cluster }) => cluster },
  { heading: 'ADDRESSES', cell: ({ addresses }) => String(addresses) },
  { heading: 'LABELS', cell: ({ labels }) => labels.join(',') },
];
