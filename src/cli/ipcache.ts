import type { Command } from 'commander';
import { API_VERSION, type IpcacheRecord } from '../api/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { command, group } from './command.ts';
import { EXIT } from './exit-code.ts';
import { addressArgument, clusterOption, given, selectorOption, sourceOption } from './filters.ts';
import { type Column, writeList, writeRecord } from './output.ts';
import { TableWriter } from './table.ts';

interface Options {
  readonly cluster?: string;
  readonly source?: string;
  readonly selector?: string;
}

export function ipcacheCommands(): Command {
  return group('ipcache', 'Addresses and the identities behind them', [list(), get()]).alias('ip');
}

function list(): Command {
  return command<Options>({
    name: 'list',
    summary: 'List every address and prefix with its identity',
    details: 'This is what the agent wants; `bpf ipcache list` shows what the kernel has.',
    examples: [
      ['ipcache list', 'all'],
      ['ipcache list --cluster cluster-b', 'what cluster-b announces'],
      ['ipcache list --source clustermesh --selector k8s:app=web', 'by source and label'],
    ],
    shared: SHOWS_AGENT,
    options: [clusterOption(), sourceOption('local, kvstore, clustermesh, node, policy, reserved'), selectorOption()],
    async run(call) {
      const { cluster, source, selector, output } = call.options;
      await writeList({
        terminal: call.terminal,
        format: output,
        kind: 'IpcacheList',
        records: askAgent(call).ipcache(given({ cluster, source, selector })),
        columns: COLUMNS,
      });
      return EXIT.ok;
    },
  });
}

function get(): Command {
  return command({
    name: 'get',
    summary: 'Show which entry holds an address: the longest prefix around it',
    arguments: [addressArgument()],
    examples: [['ipcache get 10.245.1.5', 'who is it?']],
    shared: SHOWS_AGENT,
    async run(call) {
      const record = await askAgent(call).ipcacheGet(call.args[0] ?? '');
      await writeRecord({
        terminal: call.terminal,
        format: call.options.output,
        record: { apiVersion: API_VERSION, kind: 'IpcacheEntry', ...record },
        // One entry is shown with everything that is known about it.
        table: () =>
          new TableWriter(COLUMNS.map(({ heading }) => heading)).write([COLUMNS.map(({ cell }) => cell(record))]),
      });
      return EXIT.ok;
    },
  });
}

const COLUMNS: readonly Column<IpcacheRecord>[] = [
  { heading: 'IP', cell: ({ prefix }) => prefix },
  { heading: 'IDENTITY', cell: ({ identity }) => String(identity) },
  { heading: 'SOURCE', cell: ({ source }) => source },
  { heading: 'CLUSTER', cell: ({ cluster }) => cluster ?? '' },
  { heading: 'LABELS', cell: ({ labels }) => labels.join(',') },
  { heading: 'TUNNEL ENDPOINT', wide: true, cell: ({ tunnelEndpoint }) => tunnelEndpoint },
  {
    heading: 'OTHER CLAIMS',
    wide: true,
    cell: ({ others }) => (others ?? []).map((each) => `${each.cluster} ${each.source} identity=${each.identity}`),
  },
];
