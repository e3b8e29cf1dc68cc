import type { Command } from 'commander';
import { askRecord } from '../../api/ask.ts';
import type { PolicyFindings } from '../../api/policy-types.ts';
import type { HubPolicyApplied, HubPolicyDetail, HubPolicyList } from '../../hub/policies/records.ts';
import { printable } from '../../observe/printable.ts';
import { type Call, command, group, Option } from '../command.ts';
import { EXIT, type ExitCode } from '../exit-code.ts';
import { write, writeRecord } from '../output.ts';
import { filesOf, findingText, readPolicyFile } from '../policy-validate.ts';
import { TableWriter } from '../table.ts';
import { plural } from '../words.ts';
import { hubOf } from './asking.ts';

export function hubPolicyCommands(): Command {
  return group('policy', 'Policies that the hub hands out to all machines', [
    applyCommand(),
    deleteCommand(),
    listCommand(),
    getCommand(),
  ]);
}

function applyCommand(): Command {
  return command<{ readonly file: readonly string[] }>({
    name: 'apply',
    summary: 'Hand out policies: all objects of the files, or none if one is not valid',
    details:
      'A folder stands for its .yaml, .yml and .json files, "-" for standard input. An object replaces the one of the same kind, namespace and name.',
    examples: [
      ['hub policy apply -f web.yaml', 'one file'],
      ['hub policy apply -f web.yaml db.yaml', 'several, as one change'],
    ],
    shared: ['socket', 'output'],
    options: [new Option('-f, --file <file...>', 'files with policies').makeOptionMandatory()],
    run: apply,
  });
}

async function apply(call: Call<{ readonly file: readonly string[] }>): Promise<ExitCode> {
  const texts: { name: string; text: string }[] = [];
  for (const given of call.options.file)
    for (const file of await filesOf(given)) texts.push({ name: file, text: await readPolicyFile(file) });
  const answer = await askRecord<HubPolicyApplied | PolicyFindings>(hubOf(call), '/v1/policies', {
    method: 'POST',
    body: { texts },
  });
  const refused = answer.kind === 'PolicyValidation';
  const table = (): string =>
    answer.kind === 'PolicyValidation'
      ? `${answer.items.map(findingText).join('')}Nothing was changed.\n`
      : changesText(answer);
  await writeRecord({ terminal: call.terminal, format: call.options.output, record: answer, table });
  return refused ? EXIT.failure : EXIT.ok;
}

function deleteCommand(): Command {
  return command({
    name: 'delete <name>',
    summary: 'Take a policy back from all machines',
    examples: [['hub policy delete CiliumNetworkPolicy/default/web', 'by the name that `hub policy list` shows']],
    shared: ['socket', 'output'],
    async run(call) {
      const path = `/v1/policies/${encodeURIComponent(call.args[0] ?? '')}`;
      const answer = await askRecord<HubPolicyApplied>(hubOf(call), path, { method: 'DELETE' });
      const table = (): string => changesText(answer);
      await writeRecord({ terminal: call.terminal, format: call.options.output, record: answer, table });
      return EXIT.ok;
    },
  });
}

function listCommand(): Command {
  return command({
    name: 'list',
    summary: 'List the policies that the hub hands out, and which machines have applied them',
    examples: [
      ['hub policy list', 'the policies, and how many machines have them'],
      ['hub policy list -o wide', 'machine by machine'],
    ],
    shared: ['socket', 'output'],
    async run(call) {
      const record = await askRecord<HubPolicyList>(hubOf(call), '/v1/policies');
      await writeRecord({
        terminal: call.terminal,
        format: call.options.output,
        record,
        table: (wide) => listText(record, wide),
      });
      return EXIT.ok;
    },
  });
}

function getCommand(): Command {
  return command({
    name: 'get <name>',
    summary: 'Show one policy as it is handed out',
    examples: [['hub policy get CiliumNetworkPolicy/default/web', 'its object, in JSON']],
    shared: ['socket', 'output'],
    async run(call) {
      const path = `/v1/policies/${encodeURIComponent(call.args[0] ?? '')}`;
      const record = await askRecord<HubPolicyDetail>(hubOf(call), path);
      const { output } = call.options;
      if (output === 'table' || output === 'wide')
        await write(call.terminal.out, record.text.split('\n').map(printable).join('\n'));
      else await writeRecord({ terminal: call.terminal, format: output, record, table: () => '' });
      return EXIT.ok;
    },
  });
}

function changesText({ items }: HubPolicyApplied): string {
  return items.map(({ name, change }) => `${printable(name)} ${change}\n`).join('');
}

function listText({ revision, items, machines }: HubPolicyList, wide: boolean): string {
  const policies = new TableWriter(['Name', 'Source', 'Document', 'Revision', 'Bytes']).write(
    items.map((each) => [each.name, sourceText(each), each.document, String(each.revision), String(each.bytes)]),
  );
  const current = machines.filter((machine) => machine.current).length;
  const silent = machines.filter((machine) => machine.revision === null).length;
  const told = silent === 0 ? '' : `, ${silent} do not tell`;
  const summary = `Revision ${revision}: applied by ${current} of ${plural(machines.length, 'machine')}${told}\n`;
  if (!wide) return `${policies}\n${summary}`;
  const each = new TableWriter(['Machine', 'Applied', '']).write(
    machines.map((machine) => [machine.workload, machine.revision ?? 'unknown', machine.current ? 'current' : '']),
  );
  return `${policies}\n${summary}\n${each}`;
}

function sourceText({ source, shadowed }: HubPolicyList['items'][number]): string {
  return shadowed ? `${source}, not in force: the one by hand wins` : source;
}
