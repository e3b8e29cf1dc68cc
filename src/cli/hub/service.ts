import type { Command } from 'commander';
import { askList, askRecord } from '../../api/ask.ts';
import type { HubServiceChanged, HubServiceRecord, HubServiceRefused } from '../../hub/services/records.ts';
import { printable } from '../../observe/printable.ts';
import { type Call, command, group, InvalidArgumentError, Option } from '../command.ts';
import { EXIT, type ExitCode } from '../exit-code.ts';
import { given } from '../filters.ts';
import { write, writeList, writeRecord } from '../output.ts';
import { hubOf, seconds } from './asking.ts';
import { labelOption } from './label-option.ts';
import { serviceColumns, serviceText } from './service-text.ts';

/** `hub service`: services that run on machines. */
export function hubServiceCommands(): Command {
  return group('service', 'Services that run on machines, for all clusters', [
    createCommand(),
    listCommand(),
    getCommand(),
    deleteCommand(),
  ]);
}

interface CreateOptions {
  readonly namespace?: string;
  readonly port?: readonly string[];
  readonly selector?: Readonly<Record<string, string>>;
  readonly global?: true;
  readonly shared?: boolean;
  readonly affinity?: string;
  readonly address?: readonly string[];
  readonly check?: readonly string[];
  readonly checkInterval?: number;
  readonly checkTimeout?: number;
  readonly checkRise?: number;
  readonly checkFall?: number;
  readonly replace?: true;
}

function createCommand(): Command {
  return command<CreateOptions>({
    name: 'create <name>',
    summary: 'Create a service: machines of its namespace with these labels become its backends',
    details:
      'With --global it is one service with those of the same namespace and name in the clusters, under the same names of ports. ' +
      'A check is done by each machine on itself; one that fails takes it out. All that is wrong is told at once.',
    examples: [
      ['hub service create api --namespace shop --port 80:8080/tcp --selector app=api --global', 'for all clusters'],
      ['hub service create db --port 5432 --selector app=db --check tcp --address auto', 'for the machines alone'],
      ['hub service create web --port http=80:8080 https=443:8443 --selector app=web --check http:/healthz', 'checked'],
      ['hub service create api --namespace shop --port 80:8081 --selector app=api --global --replace', 'another port'],
    ],
    shared: ['socket', 'output'],
    options: [
      new Option('--namespace <namespace>', 'namespace of the service and of its machines (default: default)'),
      new Option('--port <port...>', '80, 80:8080/tcp (8080 on the machines), or with a name: http=80:8080/tcp'),
      labelOption('--selector <key=value...>', 'labels that a machine must have, all of them'),
      new Option('--global', 'one service with those of that name in the clusters; shared with them'),
      new Option('--shared', 'shared with the clusters, which makes it global as well'),
      new Option('--no-shared', 'with --global: the clusters do not get the machines as backends'),
      new Option('--affinity <affinity>', 'what machines prefer as clients: none, local or remote (default: none)'),
      new Option('--address <ip...>', 'where machines reach it; auto: one from services.pools of hub.yaml'),
      new Option('--check <check...>', 'tcp, tcp:8080, http:/path or http:8080/path; all have to succeed'),
      new Option('--check-interval <time>', 'between two checks (default: 5s)').argParser(seconds),
      new Option('--check-timeout <time>', 'for an answer (default: 2s)').argParser(seconds),
      new Option('--check-rise <count>', 'successes in a row that put a machine in (default: 2)').argParser(count),
      new Option('--check-fall <count>', 'failures in a row that take it out (default: 3)').argParser(count),
      new Option('--replace', 'put it in the place of one that is there'),
    ],
    run: create,
  });
}

async function create(call: Call<CreateOptions>): Promise<ExitCode> {
  const { options, terminal } = call;
  const more = given({
    namespace: options.namespace,
    ports: options.port,
    selector: options.selector,
    global: options.global,
    shared: options.shared,
    affinity: options.affinity,
    addresses: options.address,
    checks: options.check,
    interval: options.checkInterval,
    timeout: options.checkTimeout,
    rise: options.checkRise,
    fall: options.checkFall,
    replace: options.replace,
  });
  const body = { name: call.args[0] ?? '', ...more };
  const record = await askRecord<HubServiceChanged | HubServiceRefused>(hubOf(call), '/v1/services', {
    method: 'POST',
    body,
  });
  const table = (): string =>
    record.kind === 'HubServiceValidation'
      ? `${record.items.map(({ field, message }) => `${printable(`${field}: ${message}`)}\n`).join('')}Nothing was changed.\n`
      : changedText(record);
  await writeRecord({ terminal, format: options.output, record, table });
  return record.kind === 'HubServiceValidation' ? EXIT.failure : EXIT.ok;
}

function changedText({ change, service }: HubServiceChanged): string {
  const { namespace, name, addresses, backends } = service;
  const at = addresses.length === 0 ? '' : `, at ${addresses.join(' and ')} for machines`;
  const machines = new Set(backends.map(({ workload }) => workload)).size;
  return `Service ${printable(`${namespace}/${name}`)} ${change}${at}; it selects ${machines} machine${machines === 1 ? '' : 's'}.\n`;
}

function listCommand(): Command {
  return command<{ readonly namespace?: string }>({
    name: 'list',
    summary: 'List the services on machines, with their backends',
    examples: [
      ['hub service list', 'all'],
      ['hub service list -o wide', 'with selectors, checks, and why a machine gets nothing'],
    ],
    shared: ['socket', 'output'],
    options: [new Option('--namespace <namespace>', 'only those of this namespace')],
    async run(call) {
      const { namespace, output } = call.options;
      const query = namespace === undefined ? '' : `?${new URLSearchParams({ namespace })}`;
      await writeList<HubServiceRecord>({
        terminal: call.terminal,
        format: output,
        kind: 'HubServiceList',
        records: askList<HubServiceRecord>(hubOf(call), `/v1/services${query}`),
        columns: serviceColumns(Date.now()),
        compare: (a, b) => `${a.namespace}/${a.name}`.localeCompare(`${b.namespace}/${b.name}`, 'en'),
      });
      return EXIT.ok;
    },
  });
}

function getCommand(): Command {
  return command<{ readonly namespace?: string }>({
    name: 'get <service>',
    summary: 'Show one service, and of each machine whether it gets connections, since when and why',
    details: 'The service is given as namespace/name, or by its name with --namespace; else it is in "default".',
    examples: [['hub service get shop/api', 'by namespace and name']],
    shared: ['socket', 'output'],
    options: [namespaceOption()],
    async run(call) {
      const record = await askRecord<HubServiceRecord>(hubOf(call), pathOf(call.args[0], call.options.namespace));
      const table = (): string => serviceText(record, Date.now());
      await writeRecord({ terminal: call.terminal, format: call.options.output, record, table });
      return EXIT.ok;
    },
  });
}

function deleteCommand(): Command {
  return command<{ readonly namespace?: string }>({
    name: 'delete <service...>',
    summary: 'Delete services: no cluster and no machine leads new connections to their machines any more',
    examples: [['hub service delete shop/api', 'what runs goes on']],
    shared: ['socket'],
    options: [namespaceOption()],
    async run(call) {
      for (const name of call.args) {
        await askRecord(hubOf(call), pathOf(name, call.options.namespace), { method: 'DELETE' });
        await write(call.terminal.out, `Service ${printable(name)} is deleted.\n`);
      }
      return EXIT.ok;
    },
  });
}

function namespaceOption(): Option {
  return new Option('--namespace <namespace>', 'where it is, when the name says nothing of it');
}

function pathOf(given = '', namespace = 'default'): string {
  const at = given.indexOf('/');
  const parts = at < 0 ? [namespace, given] : [given.slice(0, at), given.slice(at + 1)];
  // A name that is none must stay one segment, and not become the list.
  return `/v1/services/${parts.map((part) => encodeURIComponent(part === '' ? ' ' : part)).join('/')}`;
}

function count(text: string): number {
  if (!/^[0-9]{1,3}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(text);
}
