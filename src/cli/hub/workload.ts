import type { Command } from 'commander';
import { askList, askRecord } from '../../api/ask.ts';
import type { WorkloadRecord } from '../../hub/workloads/records.ts';
import { printable } from '../../observe/printable.ts';
import { command, group, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { given } from '../filters.ts';
import { type Column, write, writeList, writeRecord } from '../output.ts';
import { ago, span } from '../words.ts';
import { hubOf } from './asking.ts';
import { installCommand } from './install.ts';
import { labelOption, labelsLine } from './label-option.ts';
import { revokeCommand } from './revoke.ts';
import { tokenCommand } from './token.ts';

/** `hub workload`, and `hub vm`, as it was called in Cilium. */
export function workloadCommands(): Command {
  return group('workload', 'Workloads: what machines are, and may be', [
    createCommand(),
    listCommand(),
    getCommand(),
    setCommand(),
    deleteCommand(),
    tokenCommand(),
    revokeCommand(),
    installCommand(),
  ]).alias('vm');
}

interface CreateOptions {
  readonly label?: Readonly<Record<string, string>>;
  readonly namespace?: string;
  readonly serviceAccount?: string;
  readonly ipv4AllocCidr?: string;
  readonly ipv6AllocCidr?: string;
}

function createCommand(): Command {
  return command<CreateOptions>({
    name: 'create <name>',
    summary: 'Create a workload: the name, labels and addresses that one machine will have',
    details:
      'The machine takes its name from here. Without a range it gets one from the pools of the hub. Next: `hub workload token NAME`.',
    examples: [
      ['hub workload create my-vm --label app=backend env=production', 'with a range from the pools'],
      ['hub workload create my-vm --namespace shop --ipv4-alloc-cidr 10.192.1.0/30', 'with a range of its own'],
    ],
    shared: ['socket', 'output'],
    options: [
      labelOption('--label <key=value...>', 'labels of its identity'),
      new Option('--namespace <namespace>', 'Kubernetes namespace that it counts as part of (default: default)'),
      new Option('--service-account <name>', 'service account, for policies that select by it'),
      new Option('--ipv4-alloc-cidr <cidr>', 'its own IPv4 range'),
      new Option('--ipv6-alloc-cidr <cidr>', 'its own IPv6 range'),
    ],
    async run(call) {
      const { label, namespace, serviceAccount, ipv4AllocCidr, ipv6AllocCidr, output } = call.options;
      const more = given({ labels: label, namespace, serviceAccount, ipv4AllocCidr, ipv6AllocCidr });
      const body = { name: call.args[0] ?? '', ...more };
      const record = await askRecord<WorkloadRecord>(hubOf(call), '/v1/workloads', { method: 'POST', body });
      const ranges = [record.ipv4AllocCidr, record.ipv6AllocCidr].filter((range) => range !== null);
      const having = ranges.length === 0 ? 'no range' : ranges.join(' and ');
      const table = (): string =>
        printable(`Workload ${record.name} in namespace ${record.namespace} is made, with ${having}.`);
      await writeRecord({ terminal: call.terminal, format: output, record, table: () => `${table()}\n` });
      return EXIT.ok;
    },
  });
}

function listCommand(): Command {
  return command<{ readonly namespace?: string }>({
    name: 'list',
    summary: 'List the workloads and what became of their machines',
    examples: [
      ['hub workload list', 'all'],
      ['hub workload list -o wide', 'with labels, ranges and reasons'],
      ['hub workload list --namespace shop', 'those of one namespace'],
    ],
    shared: ['socket', 'output'],
    options: [new Option('--namespace <namespace>', 'only those of this namespace')],
    async run(call) {
      const { namespace, output } = call.options;
      const query = namespace === undefined ? '' : `?${new URLSearchParams({ namespace })}`;
      await writeList<WorkloadRecord>({
        terminal: call.terminal,
        format: output,
        kind: 'WorkloadList',
        records: askList<WorkloadRecord>(hubOf(call), `/v1/workloads${query}`),
        columns: columns(Date.now()),
        compare: (a, b) => fullName(a).localeCompare(fullName(b), 'en'),
      });
      return EXIT.ok;
    },
  });
}

function getCommand(): Command {
  return command({
    name: 'get <name>',
    summary: 'Show one workload, and why its machine is not as it should be',
    examples: [['hub workload get my-vm', 'with refused addresses and claims']],
    shared: ['socket', 'output'],
    async run(call) {
      const record = await askRecord<WorkloadRecord>(hubOf(call), pathOf(call.args[0]));
      const table = (): string => workloadText(record, Date.now());
      await writeRecord({ terminal: call.terminal, format: call.options.output, record, table });
      return EXIT.ok;
    },
  });
}

interface SetOptions {
  readonly label?: Readonly<Record<string, string>>;
  readonly removeLabel?: readonly string[];
}

function setCommand(): Command {
  return command<SetOptions>({
    name: 'set <name>',
    summary: 'Change the labels of a workload; its machine and all clusters follow at once',
    examples: [
      ['hub workload set my-vm --label env=staging', 'adds or replaces'],
      ['hub workload set my-vm --remove-label canary', 'removes'],
    ],
    shared: ['socket', 'output'],
    options: [
      labelOption('--label <key=value...>', 'labels to add or replace'),
      new Option('--remove-label <key...>', 'labels to remove'),
    ],
    async run(call) {
      const { label, removeLabel, output } = call.options;
      const body = given({ labels: label, removeLabels: removeLabel });
      const record = await askRecord<WorkloadRecord>(hubOf(call), pathOf(call.args[0]), { method: 'PUT', body });
      const table = (): string => `Workload ${printable(record.name)} has the labels ${labelsText(record)}.\n`;
      await writeRecord({ terminal: call.terminal, format: output, record, table });
      return EXIT.ok;
    },
  });
}

function deleteCommand(): Command {
  return command({
    name: 'delete <name...>',
    summary: 'Delete workloads: their machines lose all rights, and vanish from all clusters at once',
    examples: [['hub workload delete my-vm', 'its range is free again']],
    shared: ['socket'],
    async run(call) {
      for (const name of call.args) {
        await askRecord(hubOf(call), pathOf(name), { method: 'DELETE' });
        await write(call.terminal.out, `Workload ${printable(name)} is deleted.\n`);
      }
      return EXIT.ok;
    },
  });
}

function pathOf(name = ''): string {
  // A name that is none must stay one segment, and not become the list.
  return `/v1/workloads/${encodeURIComponent(name === '' ? ' ' : name)}`;
}

const fullName = ({ namespace, name }: WorkloadRecord): string => `${namespace}/${name}`;
const stateText = ({ state, drained, unreachable }: WorkloadRecord): string => {
  const word = state === 'never-seen' ? 'never seen' : state;
  return [word, ...(unreachable === null ? [] : ['unreachable']), ...(drained === null ? [] : ['draining'])].join(', ');
};

function labelsText({ labels }: WorkloadRecord): string {
  return printable(labelsLine(labels));
}

/** A machine that is registered keeps its registration alive: it is seen now, unless no hub has a connection of it. */
function seenText({ state, lastSeen, unreachable }: WorkloadRecord, now: number): string {
  if (unreachable !== null) return ago(unreachable, now);
  return state === 'registered' || state === 'waiting' ? 'now' : ago(lastSeen ?? undefined, now);
}

function columns(now: number): readonly Column<WorkloadRecord>[] {
  return [
    { heading: 'Name', cell: fullName },
    {
      heading: 'State',
      cell: (each) => (each.refused.length + each.claims.length > 0 ? `${stateText(each)} (!)` : stateText(each)),
    },
    { heading: 'Identity', cell: ({ identity }) => String(identity ?? '') },
    { heading: 'Addresses', cell: ({ addresses }) => addresses },
    { heading: 'Last Seen', cell: (each) => seenText(each, now) },
    { heading: 'Agent', cell: ({ agentVersion }) => agentVersion ?? '' },
    { heading: 'Source', wide: true, cell: ({ source }) => source },
    { heading: 'IPv4 Range', wide: true, cell: ({ ipv4AllocCidr }) => ipv4AllocCidr ?? '' },
    { heading: 'IPv6 Range', wide: true, cell: ({ ipv6AllocCidr }) => ipv6AllocCidr ?? '' },
    { heading: 'Labels', wide: true, cell: (each) => labelsText(each).split(', ') },
    { heading: 'Reason', wide: true, cell: ({ reason }) => reason ?? '' },
  ];
}

function workloadText(record: WorkloadRecord, now: number): string {
  const since = record.since === null ? '' : `, for ${span(now - record.since)}`;
  const lines: (readonly [string, string])[] = [
    ['Name', fullName(record)],
    ['State', `${stateText(record)}${since}`],
    ...(record.reason === null ? [] : [['Reason', record.reason] as const]),
    ...record.refused.map(({ address, type, reason }) => ['Refused', `${address} (${type}): ${reason}`] as const),
    ...record.claims.map((claim) => ['Overridden', claim] as const),
    ...(record.drained === null ? [] : [['Draining', `for ${span(now - record.drained)}`] as const]),
    ...(record.unreachable === null
      ? []
      : [['Unreachable', `for ${span(now - record.unreachable)}: no hub has a connection of it`] as const]),
    ['Identity', record.identity === null ? 'none' : String(record.identity)],
    ['Labels', labelsText(record)],
    ['Service account', record.serviceAccount ?? 'none'],
    ['Addresses', record.addresses.join(', ') || 'none'],
    ['Ranges', [record.ipv4AllocCidr, record.ipv6AllocCidr].filter((range) => range !== null).join(', ') || 'none'],
    ['Last seen', seenText(record, now)],
    ['Agent', record.agentVersion ?? 'unknown'],
    ['Policies', record.policyRevision === null ? 'unknown' : `revision ${record.policyRevision}`],
    ['Source', record.source],
    ['Created', new Date(record.created).toISOString()],
    ['Changed', new Date(record.changed).toISOString()],
    ['UID', record.uid],
  ];
  return lines.map(([label, text]) => `${`${label}:`.padEnd(16)} ${printable(text)}\n`).join('');
}
