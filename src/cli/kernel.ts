import type { Command } from 'commander';
import type {
  KernelAddressRecord,
  KernelConnectionRecord,
  KernelPolicyRecord,
  KernelServiceRecord,
} from '../api/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { command, group, Option } from './command.ts';
import { EXIT } from './exit-code.ts';
import { given, selectorOption } from './filters.ts';
import { type Column, writeList } from './output.ts';

export function kernelCommands(): Command {
  return group('bpf', 'What the kernel really holds, whichever data path is in use', [
    group('ct', 'Connections in the kernel', [connectionList()]),
    group('ipcache', 'Addresses in the kernel', [ipcacheList()]),
    group('lb', 'Services in the kernel', [serviceList()]),
    group('policy', 'Policy entries in the kernel', [policyList()]),
  ]);
}

function ipcacheList(): Command {
  return command<{ readonly selector?: string }>({
    name: 'list',
    summary: 'List the addresses that the kernel holds, with identity, tunnel endpoint and labels',
    examples: [
      ['bpf ipcache list', 'all'],
      ['bpf ipcache list --selector k8s:app=web', 'by label'],
    ],
    shared: SHOWS_AGENT,
    options: [selectorOption()],
    async run(call) {
      const { selector, output } = call.options;
      await writeList({
        terminal: call.terminal,
        format: output,
        kind: 'KernelAddressList',
        records: askAgent(call).kernelIpcache(given({ selector })),
        columns: ADDRESSES,
      });
      return EXIT.ok;
    },
  });
}

/** The form of `cilium-dbg bpf ipcache list`, with labels, so that a cluster can be found by its name. */
const ADDRESSES: readonly Column<KernelAddressRecord>[] = [
  { heading: 'IP PREFIX/ADDRESS', cell: ({ prefix }) => prefix },
  {
    heading: 'IDENTITY',
    cell: ({ identity, tunnelEndpoint }) =>
      `identity=${identity} encryptkey=0 tunnelendpoint=${tunnelEndpoint}, flags=<none>`,
  },
  { heading: 'LABELS', cell: ({ labels }) => labels.join(',') },
];

function serviceList(): Command {
  return command({
    name: 'list',
    summary: 'List the frontends of services that the kernel holds, with the backends that they lead to',
    examples: [
      ['bpf lb list', 'all'],
      [
        'bpf lb list -o wide',
        'with the new connections that each frontend had, and where they are led: at the socket or by packets',
      ],
    ],
    shared: SHOWS_AGENT,
    async run(call) {
      const { output } = call.options;
      const records = askAgent(call).kernelServices();
      const shown = { terminal: call.terminal, format: output };
      if (output === 'json' || output === 'yaml')
        await writeList({ ...shown, kind: 'KernelServiceList', records, columns: [] });
      else await writeList({ ...shown, kind: 'KernelServiceList', records: serviceLines(records), columns: SERVICES });
      return EXIT.ok;
    },
  });
}

interface ServiceLine {
  readonly frontend: string;
  readonly backend: string;
  readonly service: string;
  readonly connections: string;
  readonly at: string;
}

const SERVICES: readonly Column<ServiceLine>[] = [
  { heading: 'SERVICE ADDRESS', cell: ({ frontend }) => frontend },
  { heading: 'BACKEND ADDRESS (REVNAT_ID) (SLOT)', cell: ({ backend }) => backend },
  { heading: 'SERVICE', cell: ({ service }) => service },
  { heading: 'CONNECTIONS', wide: true, cell: ({ connections }) => connections },
  { heading: 'LED AT', wide: true, cell: ({ at }) => at },
];

/** The form of `cilium-dbg bpf lb list`: a line for the frontend and one for each backend; each tells whose it is. */
async function* serviceLines(records: AsyncIterable<KernelServiceRecord>): AsyncIterable<ServiceLine> {
  let number = 0;
  for await (const record of records) {
    number++;
    const { frontend, scope, backends, sticky } = record;
    const service = record.service === undefined ? '' : `${record.service} ${scope === 'global' ? 'global' : 'local'}`;
    const flags = ['ClusterIP', 'non-routable', ...(sticky ? ['sessionAffinity'] : [])].join(', ');
    const head = `0.0.0.0:0 (${number}) (0) [${flags}]`;
    yield {
      frontend: `${frontend} (0)`,
      backend: head,
      service,
      connections: String(record.connections),
      at: record.at,
    };
    for (const [index, { address }] of backends.entries()) {
      const slot = index + 1;
      yield {
        frontend: `${frontend} (${slot})`,
        backend: `${address} (${number}) (${slot})`,
        service,
        connections: '',
        at: '',
      };
    }
  }
}

function connectionList(): Command {
  return command<{ readonly state?: string }>({
    name: 'list',
    summary: 'List the connections that the kernel remembers, with what became of them',
    examples: [
      ['bpf ct list', 'all that were judged'],
      ['bpf ct list --state denied', 'those whose policy was withdrawn'],
    ],
    shared: SHOWS_AGENT,
    options: [new Option('--state <state>', 'only in this state').choices(['opening', 'open', 'closing', 'denied'])],
    async run(call) {
      const { output, state } = call.options;
      await writeList({
        terminal: call.terminal,
        format: output,
        kind: 'KernelConnectionList',
        records: inState(askAgent(call).kernelConnections(), state),
        columns: CONNECTIONS,
      });
      return EXIT.ok;
    },
  });
}

async function* inState(
  records: AsyncIterable<KernelConnectionRecord>,
  state: string | undefined,
): AsyncIterable<KernelConnectionRecord> {
  for await (const record of records) if (state === undefined || record.state === state) yield record;
}

const CONNECTIONS: readonly Column<KernelConnectionRecord>[] = [
  { heading: 'PROTO', cell: ({ protocol }) => protocol },
  { heading: 'DIRECTION', cell: ({ direction }) => (direction === 'ingress' ? 'IN' : 'OUT') },
  { heading: 'FROM', cell: ({ direction, remote, local }) => (direction === 'ingress' ? remote : local) },
  { heading: 'TO', cell: ({ direction, remote, local }) => (direction === 'ingress' ? local : remote) },
  { heading: 'STATE', cell: ({ state }) => state },
  { heading: 'EXPIRES', cell: ({ expiresIn }) => `${expiresIn}s` },
];

function policyList(): Command {
  const direction = new Option('--direction <direction>', 'only this direction').choices(['ingress', 'egress']);
  return command<{ readonly direction?: string }>({
    name: 'list',
    summary: 'List the policy entries that the kernel holds, with their counters',
    examples: [
      ['bpf policy list', 'all'],
      ['bpf policy list --direction ingress -o wide', 'with every identity'],
    ],
    shared: SHOWS_AGENT,
    options: [direction],
    async run(call) {
      await writeList({
        terminal: call.terminal,
        format: call.options.output,
        kind: 'KernelPolicyList',
        records: askAgent(call).kernelPolicy(given({ direction: call.options.direction })),
        columns: policyColumns(call.options.output === 'wide'),
        compare: (a, b) => b.direction.localeCompare(a.direction, 'en') || a.classNumber - b.classNumber,
      });
      return EXIT.ok;
    },
  }).alias('get');
}

const SHOWN_IDENTITIES = 6;

/** After `cilium-dbg bpf policy get`. A class of identities shares its entries. */
function policyColumns(wide: boolean): readonly Column<KernelPolicyRecord>[] {
  const upper = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
  return [
    { heading: 'POLICY', cell: ({ verdict }) => upper(verdict) },
    { heading: 'DIRECTION', cell: ({ direction }) => upper(direction) },
    { heading: 'IDENTITY', cell: ({ identities }) => identitiesText(identities, wide) },
    { heading: 'PORT/PROTO', cell: ({ ports, protocol }) => portText(ports, protocol) },
    { heading: 'PROXY PORT', cell: () => 'NONE' },
    { heading: 'AUTH TYPE', cell: () => 'disabled' },
    { heading: 'BYTES', cell: ({ bytes }) => String(bytes) },
    { heading: 'PACKETS', cell: ({ packets }) => String(packets) },
    { heading: 'CLASS', wide: true, cell: ({ classNumber }) => String(classNumber) },
  ];
}

function portText(ports: string, protocol: string): string {
  const every = ports === '' || ports.toUpperCase() === 'ANY';
  return every ? protocol.toUpperCase() : `${ports}/${protocol.toUpperCase()}`;
}

function identitiesText(identities: readonly number[] | undefined, wide: boolean): string {
  if (identities === undefined) return 'all others';
  if (wide || identities.length <= SHOWN_IDENTITIES) return identities.join(',');
  return `${identities.slice(0, SHOWN_IDENTITIES).join(',')} and ${identities.length - SHOWN_IDENTITIES} more`;
}
