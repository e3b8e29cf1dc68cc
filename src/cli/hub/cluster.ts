import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import type { Command } from 'commander';
import { askList, askRecord } from '../../api/ask.ts';
import { API_VERSION } from '../../api/types.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import type { ClusterAccess } from '../../hub/clusters/cluster-document.ts';
import { EXPORT_FORMS, type ExportForm, exportedFiles, exportText } from '../../hub/clusters/export-forms.ts';
import type { ConnectAnswer, ExportAnswer, RemoteClusterRecord } from '../../hub/clusters/records.ts';
import { parseEtcdConfig } from '../../kvstore/etcd-config.ts';
import { printable } from '../../observe/printable.ts';
import { type Call, command, group, Option } from '../command.ts';
import { EXIT, type ExitCode } from '../exit-code.ts';
import { type Column, write, writeList, writeRecord } from '../output.ts';
import { ago } from '../words.ts';
import { hubOf } from './asking.ts';
import { clusterDetailText, clusterOverviewText, verdictLines } from './cluster-text.ts';

/** The hub looks into the store of the cluster before it answers. */
const PATIENCE_MS = 60_000;

export function clusterCommands(): Command {
  return group('cluster', 'Clusters whose state the hub copies for its machines, and who may read the hub', [
    connectCommand(),
    disconnectCommand(),
    listCommand(),
    statusCommand(),
    exportCommand(),
  ]);
}

function connectCommand(): Command {
  return command<{ readonly config?: string }>({
    name: 'connect <name>',
    summary: 'Connect a cluster, or change how it is reached',
    details:
      'The file is an etcd client configuration, as Cilium has it in /var/lib/cilium/clustermesh: endpoints, trusted-ca-file, cert-file, key-file. The certificates are read now and kept by the hub; connect again when they are renewed. Exit code 4: connected, but something is wrong there.',
    examples: [
      ['hub cluster connect east --config east.yaml', 'the certificates lie where the file says'],
      ['hub cluster connect east --config -', 'from standard input'],
    ],
    shared: ['socket', 'output'],
    options: [new Option('--config <file>', 'etcd client configuration of the cluster; "-" for standard input')],
    async run(call) {
      const name = call.args[0] ?? '';
      const { config } = call.options;
      if (config === undefined) {
        await write(call.terminal.error, "error: required option '--config <file>' not specified\n");
        return EXIT.usage;
      }
      const body = await readAccess(config);
      const asked = { ...hubOf(call), silenceMs: PATIENCE_MS };
      const record = await askRecord<ConnectAnswer>(asked, `/v1/clusters/${encodeURIComponent(name)}`, {
        method: 'PUT',
        body,
      });
      const words = {
        created: 'is connected',
        changed: 'is reached in another way',
        unchanged: 'was connected like that',
      };
      const table = (): string =>
        `Cluster ${printable(name)} ${words[record.change]}.\n${verdictLines(record.verdicts).join('')}`;
      await writeRecord({ terminal: call.terminal, format: call.options.output, record, table });
      return record.verdicts.every(({ state }) => state === 'ok') ? EXIT.ok : EXIT.degraded;
    },
  });
}

/** The configuration with the content of the files that it names; relative ones lie beside it. */
async function readAccess(file: string): Promise<ClusterAccess> {
  const place = file === '-' ? 'standard input' : file;
  const etcd = parseEtcdConfig(file === '-' ? await text(process.stdin) : await readNamed(resolve(file)), place);
  const beside = file === '-' ? '.' : dirname(resolve(file));
  const { endpoints, ca, cert, key, username, password } = etcd;
  const content = async (path: string | undefined): Promise<string | undefined> =>
    path === undefined ? undefined : readNamed(resolve(beside, path));
  const pems = { ca: await content(ca), cert: await content(cert), key: await content(key) };
  const given = Object.entries({ ...pems, username, password }).filter(([, value]) => value !== undefined);
  return { endpoints, ...Object.fromEntries(given) };
}

async function readNamed(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new MeshError('KVS-FILE', messageOf(cause), { place: path, cause });
  }
}

function disconnectCommand(): Command {
  return command({
    name: 'disconnect <name>',
    summary: 'Disconnect a cluster',
    details:
      'Machines forget it within minutes: its configuration is withdrawn at once, and what was copied of it three minutes later.',
    examples: [['hub cluster disconnect east', 'what was exported to it stays valid']],
    shared: ['socket'],
    async run(call) {
      const name = call.args[0] ?? '';
      await askRecord(hubOf(call), `/v1/clusters/${encodeURIComponent(name)}`, { method: 'DELETE' });
      await write(call.terminal.out, `Cluster ${printable(name)} is disconnected.\n`);
      return EXIT.ok;
    },
  });
}

function listCommand(): Command {
  return command({
    name: 'list',
    summary: 'List the connected clusters',
    examples: [
      ['hub cluster list', 'all'],
      ['hub cluster list -o wide', 'with their endpoints and the last failure'],
    ],
    shared: ['socket', 'output'],
    async run(call) {
      await writeList<RemoteClusterRecord>({
        terminal: call.terminal,
        format: call.options.output,
        kind: 'RemoteClusterList',
        records: askList<RemoteClusterRecord>(hubOf(call), '/v1/clusters'),
        columns: columns(Date.now()),
        compare: (a, b) => a.name.localeCompare(b.name, 'en'),
      });
      return EXIT.ok;
    },
  });
}

/** A hub that does not lead knows the first and the last column alone. */
function columns(now: number): readonly Column<Partial<RemoteClusterRecord> & { readonly name: string }>[] {
  const count = (value: number | undefined): string => (value === undefined ? '-' : String(value));
  return [
    { heading: 'Name', cell: ({ name }) => name },
    { heading: 'ID', cell: ({ config }) => count(config?.clusterId ?? undefined) },
    { heading: 'Ready', cell: ({ ready }) => (ready === undefined ? '-' : ready ? 'ready' : 'not-ready') },
    { heading: 'Connected', cell: ({ connected }) => (connected === undefined ? '-' : String(connected)) },
    { heading: 'Nodes', cell: ({ counts }) => count(counts?.nodes) },
    { heading: 'Endpoints', cell: ({ counts }) => count(counts?.ip) },
    { heading: 'Identities', cell: ({ counts }) => count(counts?.identities) },
    { heading: 'Services', cell: ({ counts }) => count(counts?.services) },
    {
      heading: 'Problems',
      cell: ({ verdicts }) => count(verdicts?.filter(({ state }) => state !== 'ok').length),
    },
    {
      heading: 'Last failure',
      wide: true,
      cell: ({ store }) => (store === undefined ? '-' : ago(store.lastFailure?.at, now)),
    },
    { heading: 'Endpoints of its store', wide: true, cell: ({ endpoints = [] }) => endpoints },
  ];
}

function statusCommand(): Command {
  return command({
    name: 'status [name]',
    summary: 'Show how the connection to a cluster is, prerequisite by prerequisite, or to all of them',
    details: 'Exit code: 0 fine, 3 the hub cannot be reached, 4 something is wrong.',
    examples: [
      ['hub cluster status', 'all, in short'],
      ['hub cluster status east', 'one, with its certificates and every check'],
    ],
    shared: ['socket', 'output'],
    run: status,
  });
}

async function status(call: Call): Promise<ExitCode> {
  const { terminal, options } = call;
  const [name = ''] = call.args;
  const now = Date.now();
  const records: RemoteClusterRecord[] = [];
  if (name === '') {
    for await (const each of askList<RemoteClusterRecord>(hubOf(call), '/v1/clusters')) records.push(each);
    if (records.some(({ verdicts }) => (verdicts as unknown) === undefined))
      throw new MeshError('HUB-NOT-LEADER', 'clusters are seen by the hub that leads: `hub status` names it');
    const record = { apiVersion: API_VERSION, kind: 'RemoteClusterList', items: records };
    await writeRecord({ terminal, format: options.output, record, table: () => clusterOverviewText(records, now) });
  } else {
    const record = await askRecord<RemoteClusterRecord>(hubOf(call), `/v1/clusters/${encodeURIComponent(name)}`);
    records.push(record);
    await writeRecord({
      terminal,
      format: options.output,
      record: { apiVersion: API_VERSION, kind: 'RemoteCluster', ...record },
      table: () => clusterDetailText(record, now),
    });
  }
  const fine = records.every(({ verdicts = [] }) => verdicts.every(({ state }) => state === 'ok'));
  return fine ? EXIT.ok : EXIT.degraded;
}

interface ExportOptions {
  readonly form?: ExportForm;
  readonly dir?: string;
  readonly revoke?: true;
}

function exportCommand(): Command {
  return command<ExportOptions>({
    name: 'export <name>',
    summary: 'Let a cluster read the hub: prints what its operator applies, with a new certificate',
    details:
      'Forms: yaml, the files of a clustermesh folder; helm, values of the Cilium chart; secret, Kubernetes secrets. Every export makes another key and certificate of the user remote-NAME; --revoke ends them all.',
    examples: [
      ['hub cluster export east --form helm', 'values for `helm upgrade --reuse-values`'],
      ['hub cluster export east --form secret', 'the secrets cilium-kvstoremesh and cilium-clustermesh'],
      ['hub cluster export east --dir east', 'the files, in a folder'],
      ['hub cluster export east --revoke', 'it cannot read any more'],
    ],
    shared: ['socket'],
    options: [
      new Option('--form <form>', 'what is printed').choices(EXPORT_FORMS).default('yaml'),
      new Option('--dir <dir>', 'write the files into this folder instead'),
      new Option('--revoke', 'end the rights of all certificates that were exported for this cluster'),
    ],
    async run(call) {
      const name = call.args[0] ?? '';
      const { form = 'yaml', dir, revoke } = call.options;
      const path = `/v1/clusters/${encodeURIComponent(name)}/export`;
      if (revoke === true) {
        await askRecord(hubOf(call), path, { method: 'DELETE' });
        await write(call.terminal.out, `Cluster ${printable(name)} cannot read this hub any more.\n`);
        return EXIT.ok;
      }
      const answer = await askRecord<ExportAnswer>(hubOf(call), path, { method: 'POST' });
      if (dir === undefined) await write(call.terminal.out, exportText(answer, form));
      else await writeFiles(call, { answer, dir: resolve(dir) });
      return EXIT.ok;
    },
  });
}

/** The configuration names the files where they lie. */
async function writeFiles(
  call: Call,
  { answer, dir }: { readonly answer: ExportAnswer; readonly dir: string },
): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const files = exportedFiles(answer, dir);
  for (const [file, content] of Object.entries(files)) await writeFile(join(dir, file), content, { mode: 0o600 });
  const names = Object.keys(files).map((file) => `  ${join(dir, file)}\n`);
  await write(call.terminal.out, `Cluster ${printable(answer.name)} reads this hub with:\n${names.join('')}`);
}
