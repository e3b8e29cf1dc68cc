import { basename } from 'node:path';
import type { Command } from 'commander';
import type { AppliedPolicyRecord, PolicyFindings } from '../api/policy-types.ts';
import { API_VERSION } from '../api/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { type Column, writeRecord } from './output.ts';
import { readTexts } from './policy-explain.ts';
import { findingText } from './policy-validate.ts';
import { TableWriter } from './table.ts';

interface ApplyOptions {
  readonly file?: readonly string[];
}

export function applyCommand(): Command {
  return command<ApplyOptions>({
    name: 'apply',
    summary: 'Give policies to the running agent, which keeps them',
    details: `Every object of the files is taken, or none when one of them is refused. One of the same name that came this way before is
replaced. Where the hub has a policy of the same name, that one is in force; before one of the local folder, this one is.`,
    options: [new Option('-f, --file <file...>', 'a file, a folder, or "-" for standard input').makeOptionMandatory()],
    examples: [
      ['policy apply -f web.yaml', 'one file'],
      ['policy apply -f -', 'standard input'],
    ],
    shared: SHOWS_AGENT,
    run: apply,
  });
}

export function deleteCommand(): Command {
  return command({
    name: 'delete <name>',
    summary: 'Take back a policy that was given by `policy apply`',
    examples: [['policy delete CiliumNetworkPolicy/production/web', 'by the name that `policy list` shows']],
    shared: SHOWS_AGENT,
    async run(call) {
      const record = await askAgent(call).deletePolicy(call.args[0] ?? '');
      await show(call, [record]);
      return EXIT.ok;
    },
  });
}

async function apply(call: Call<ApplyOptions>): Promise<ExitCode> {
  const texts = await readTexts(call, call.options.file ?? []);
  if (texts === undefined) return EXIT.failure;
  const answer = await askAgent(call).applyPolicies({
    texts: texts.map(({ name, text }) => ({ name: textName(name), text })),
  });
  if (answer.kind === 'PolicyApplied') {
    await show(call, answer.items);
    return EXIT.ok;
  }
  const files = new Map(texts.map(({ name }) => [textName(name), name]));
  await showRefusal(call, answer, files);
  return EXIT.failure;
}

/** Raw rules have no name of their own: they are kept under that of their file. */
function textName(file: string): string {
  return file === '-' ? 'stdin' : basename(file).replace(/\.(ya?ml|json)$/, '');
}

function show(call: Call, items: readonly AppliedPolicyRecord[]): Promise<void> {
  return writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: { apiVersion: API_VERSION, kind: 'PolicyApplied', items },
    table: () =>
      new TableWriter(COLUMNS.map(({ heading }) => heading)).write(
        items.map((each) => COLUMNS.map(({ cell }) => cell(each))),
      ),
  });
}

function showRefusal(call: Call, answer: PolicyFindings, files: ReadonlyMap<string, string>): Promise<void> {
  const items = answer.items.map((each) => ({ ...each, file: files.get(each.file) ?? each.file }));
  return writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: { ...answer, items },
    table: () => `${items.map(findingText).join('')}nothing was applied\n`,
  });
}

const COLUMNS: readonly Column<AppliedPolicyRecord>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'CHANGE', cell: ({ change }) => change },
  { heading: 'STATE', cell: ({ state, change }) => (change === 'deleted' ? '' : state) },
  { heading: 'MESSAGES', cell: ({ messages, change }) => (change === 'deleted' ? '' : messages) },
];
