import type { Command } from 'commander';
import { API_VERSION, type PolicyDetail, type PolicyRecord } from '../api/types.ts';
import { printable, printableJson } from '../observe/printable.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, group } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { type Column, write, writeList, writeRecord } from './output.ts';
import { applyCommand, deleteCommand } from './policy-change.ts';
import { explainCommand } from './policy-explain.ts';
import { validateCommand } from './policy-validate.ts';
import { ago } from './words.ts';

export function policyCommands(): Command {
  return group('policy', 'Policies of this machine', [
    command({
      name: 'list',
      summary: 'List the policies, from the local folder, the hub and `policy apply`, and whether they are in force',
      examples: [
        ['policy list', 'all'],
        ['policy list -o wide', 'with everything there is to say about them'],
      ],
      shared: SHOWS_AGENT,
      async run(call) {
        await writeList({
          terminal: call.terminal,
          format: call.options.output,
          kind: 'PolicyList',
          records: askAgent(call).policies(),
          columns: columns(Date.now()),
          compare: (a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name, 'en'),
        });
        return EXIT.ok;
      },
    }),
    command({
      name: 'get [name]',
      summary: 'Show the rules of one policy, or of all, as they were understood',
      examples: [
        ['policy get', 'all rules'],
        ['policy get CiliumNetworkPolicy/production/web', 'one policy, by the name that `policy list` shows'],
      ],
      shared: SHOWS_AGENT,
      run: get,
    }),
    validateCommand(),
    explainCommand().alias('trace'),
    applyCommand(),
    deleteCommand(),
  ]);
}

async function get(call: Call): Promise<ExitCode> {
  const client = askAgent(call);
  const [name = ''] = call.args;
  if (name !== '') {
    const record = await client.policy(name);
    await writeRecord({
      terminal: call.terminal,
      format: call.options.output,
      // Its own `kind` is that of the policy object.
      record: { apiVersion: API_VERSION, ...record },
      table: () => rulesText([record]),
    });
    // Beside the rules, which programs may read.
    const { output } = call.options;
    if (output === 'table' || output === 'wide') call.terminal.error.write(remarksText(record));
    return EXIT.ok;
  }
  const records: PolicyDetail[] = [];
  for await (const { name: each } of client.policies()) records.push(await client.policy(each));
  const { output } = call.options;
  if (output === 'table' || output === 'wide') {
    const { policy } = await client.status();
    await write(call.terminal.out, `${rulesText(records)}Revision: ${policy.revision}\n`);
  } else {
    await writeList({ terminal: call.terminal, format: output, kind: 'PolicyList', records, columns: [] });
  }
  return EXIT.ok;
}

/** Where it comes from, whether it is in force, and everything there is to say about it. */
function remarksText({ source, state, audit, messages }: PolicyDetail): string {
  const first = `${source}: ${state}${audit ? ', its denials are reported only' : ''}`;
  return [first, ...messages.map((message) => `  ${message}`)].map((line) => `${printable(line)}\n`).join('');
}

/** The rules as one JSON list, as `cilium-dbg policy get` has it. */
function rulesText(records: readonly PolicyDetail[]): string {
  const rules = records.flatMap(({ rulesJson }) => (Array.isArray(rulesJson) ? (rulesJson as unknown[]) : [rulesJson]));
  const text = JSON.stringify(rules, undefined, 2);
  return `${text.split('\n').map(printableJson).join('\n')}\n`;
}

/** What needs a look stands first. */
function rank({ state }: PolicyRecord): number {
  return state === 'invalid' || state === 'last-good' ? 0 : state === 'shadowed' ? 1 : 2;
}

const columns = (now: number): readonly Column<PolicyRecord>[] => [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'SOURCE', cell: ({ source }) => source },
  { heading: 'STATE', cell: ({ state, audit }) => (audit ? `${state} (audit)` : state) },
  { heading: 'RULES', cell: ({ rules }) => String(rules) },
  { heading: 'HELD BACK', cell: ({ heldBack }) => (heldBack === 0 ? '' : String(heldBack)) },
  { heading: 'DIRECTIONS', cell: ({ directions }) => directions.join(',') },
  { heading: 'SINCE', cell: ({ since }) => ago(since, now) },
  {
    heading: 'MESSAGES',
    cell: ({ messages }) => (messages.length > 1 ? [messages[0] ?? '', `and ${messages.length - 1} more`] : messages),
  },
  { heading: 'ALL MESSAGES', wide: true, cell: ({ messages }) => messages },
];
