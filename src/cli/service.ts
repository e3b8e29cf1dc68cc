import type { Command } from 'commander';
import type { BackendRecord, ServiceRecord } from '../api/types.ts';
import { MeshError } from '../core/errors.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, group } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { clusterOption, given } from './filters.ts';
import { type Column, writeList } from './output.ts';
import { ago } from './words.ts';

interface Options {
  readonly cluster?: string;
}

export function serviceCommands(): Command {
  return group('service', 'Services that the clusters announce', [
    command<Options>({
      name: 'list',
      summary: 'List the services of all clusters, with their backends',
      examples: [
        ['service list', 'all'],
        ['service list --cluster cluster-b', 'what cluster-b announces'],
      ],
      shared: SHOWS_AGENT,
      options: [clusterOption('only what this cluster announces')],
      async run(call) {
        await show(call, askAgent(call).services(given({ cluster: call.options.cluster })));
        return EXIT.ok;
      },
    }),
    command<Options>({
      name: 'get <service>',
      summary: 'Show one service, as each cluster announces it, and why each backend is used or not',
      details: 'The service is given as namespace/name; without a namespace it is in "default".',
      examples: [['service get production/api-service', 'by namespace and name']],
      shared: SHOWS_AGENT,
      options: [clusterOption('only what this cluster announces')],
      run: getOne,
    }),
  ]);
}

async function getOne(call: Call<Options>): Promise<ExitCode> {
  const [first = '', second] = (call.args[0] ?? '').split('/', 2);
  const [namespace, name] = second === undefined ? ['default', first] : [first, second];
  // Nothing is written before it is known that there is something.
  const found: ServiceRecord[] = [];
  for await (const each of askAgent(call).services({ namespace, name, ...given({ cluster: call.options.cluster }) }))
    found.push(each);
  if (found.length === 0) throw new MeshError('API-NOT-FOUND', `service ${namespace}/${name}`);
  await show(call, found);
  const { output } = call.options;
  if (output === 'json' || output === 'yaml') return EXIT.ok;
  for (const scope of ['own', 'global'] as const) {
    const balanced = found.find((each) => each.balanced?.scope === scope)?.balanced;
    if (balanced !== undefined) await explain(call, balanced.backends);
  }
  for (const line of remarks(found)) call.terminal.out.write(`${line}\n`);
  return EXIT.ok;
}

async function explain(call: Call<Options>, backends: readonly BackendRecord[]): Promise<void> {
  call.terminal.out.write('\n');
  await writeList({
    terminal: call.terminal,
    format: 'table',
    kind: 'BackendList',
    records: backends,
    columns: [
      { heading: 'Backend', cell: ({ addresses }) => addresses },
      { heading: 'Cluster', cell: ({ cluster }) => cluster },
      { heading: 'State', cell: ({ state }) => state },
      { heading: 'Serving', cell: ({ serving }) => (serving ? 'yes' : 'no') },
      { heading: 'Since', cell: ({ since }) => ago(since, Date.now()) },
      { heading: 'Reason', cell: ({ reason }) => reason ?? '' },
    ],
  });
}

function remarks(found: readonly ServiceRecord[]): string[] {
  const lines = new Set<string>();
  for (const { balanced, cluster } of found) {
    for (const { frontend, reason } of balanced?.refused ?? [])
      lines.add(`frontend ${frontend} of ${cluster} is not in force: ${reason}`);
    for (const problem of balanced?.problems ?? []) lines.add(`problem: ${problem}`);
  }
  return lines.size === 0 ? [] : ['', ...lines];
}

function show(call: Call<Options>, records: readonly ServiceRecord[] | AsyncIterable<ServiceRecord>): Promise<number> {
  let number = 0;
  const id: Column<ServiceRecord> = { heading: 'ID', cell: () => String(++number) };
  return writeList({
    terminal: call.terminal,
    format: call.options.output,
    kind: 'ServiceList',
    records,
    columns: [id, ...COLUMNS],
    compare: (a, b) => sortKey(a).localeCompare(sortKey(b), 'en'),
  });
}

const sortKey = (service: ServiceRecord): string => `${service.namespace}/${service.name} ${service.cluster}`;

const COLUMNS: readonly Column<ServiceRecord>[] = [
  { heading: 'Frontend', cell: ({ frontends }) => frontends },
  // Only the cluster's own address of a service is announced.
  { heading: 'Service Type', cell: () => 'ClusterIP' },
  { heading: 'Backend', cell: backendLines },
  { heading: 'Name', cell: ({ namespace, name }) => `${namespace}/${name}` },
  { heading: 'Cluster', cell: ({ cluster }) => cluster },
  { heading: 'Scope', cell: ({ global, shared }) => (global ? 'global' : shared ? 'shared' : 'local') },
  { heading: 'DNS', wide: true, cell: ({ names }) => names ?? [] },
  { heading: 'Affinity', wide: true, cell: ({ balanced }) => balanced?.affinity ?? '' },
];

/** Of all clusters where this machine balances it, else those that this cluster announces. */
function backendLines({ balanced, backends }: ServiceRecord): string[] {
  const lines =
    balanced === undefined
      ? backends.map((address) => `${address} (active)`)
      : balanced.backends.flatMap(({ addresses, state }) => addresses.map((address) => `${address} (${state})`));
  return lines.map((line, index) => `${index + 1} => ${line}`);
}
