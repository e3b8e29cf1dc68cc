import type { Command } from 'commander';
import type { CandidatesRecord, ExplainAnswer, PolicyText } from '../api/policy-types.ts';
import { messageOf } from '../core/errors.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { Argument, type Call, command, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { IDENTITY_COLUMNS } from './identity.ts';
import { writeRecord } from './output.ts';
import { explanationText } from './policy-explain-text.ts';
import { filesOf, findingText, readPolicyFile } from './policy-validate.ts';
import { TableWriter } from './table.ts';

interface Options {
  readonly with?: readonly string[];
  readonly exitCode?: true;
}

export function explainCommand(): Command {
  return command<Options>({
    name: 'explain',
    summary: 'Say what becomes of a connection, and why',
    details: `Source and destination are addresses, numbers of identities, labels that one identity alone has, or "self". One of them is
this machine. The port is that of the destination; for ICMP it is the type. Without one, every port is judged.

Exit code 0 whenever there is an answer; with --exit-code, 1 for a connection that does not pass.`,
    arguments: [
      new Argument('<source>', 'who opens the connection'),
      new Argument('<destination>', 'whom it is opened to'),
      new Argument('[port]', 'tcp/80, udp/53, sctp/9, icmp/8, icmpv6/128'),
    ],
    options: [
      new Option('--with <file...>', 'as if the policies of these files were in force; nothing is changed'),
      new Option('--exit-code', 'exit code 1 when the connection does not pass'),
    ],
    examples: [
      ['policy explain 10.244.1.5 self tcp/8080', 'may this pod reach us?'],
      ['policy explain self 203.0.113.10 tcp/443', 'may we reach that server?'],
      ['policy explain k8s:app=frontend,io.cilium.k8s.policy.cluster=cluster-a self', 'on which ports?'],
      ['policy explain 10.244.1.5 self tcp/8080 --with new.yaml', 'before and after'],
    ],
    shared: SHOWS_AGENT,
    run: explain,
  });
}

async function explain(call: Call<Options>): Promise<ExitCode> {
  const [source = '', destination = '', port = ''] = call.args;
  const texts = await readTexts(call, call.options.with ?? []);
  if (texts === undefined) return EXIT.failure;
  const answer = await askAgent(call).explain({
    source,
    destination,
    ...(port !== '' && { port }),
    ...(texts.length > 0 && { with: texts }),
  });
  await writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: answer,
    table: (wide) => answerText(answer, { wide, color: call.terminal.color }),
  });
  return exitCode(answer, call.options.exitCode === true);
}

/** Undefined when a file cannot be read, which is told. */
export async function readTexts(call: Call, given: readonly string[]): Promise<PolicyText[] | undefined> {
  const texts: PolicyText[] = [];
  for (const each of given) {
    for (const file of await filesOf(each)) {
      try {
        texts.push({ name: file, text: await readPolicyFile(file) });
      } catch (error) {
        call.terminal.error.write(findingText({ file, severity: 'error', message: messageOf(error) }));
        return undefined;
      }
    }
  }
  return texts;
}

function answerText(answer: ExplainAnswer, options: { readonly wide: boolean; readonly color: boolean }): string {
  if (answer.kind === 'PolicyExplanation') return explanationText(answer, { ...options, now: Date.now() });
  return answer.kind === 'PolicyCandidates' ? candidatesText(answer) : answer.items.map(findingText).join('');
}

function candidatesText({ asked, count, items }: CandidatesRecord): string {
  const table = new TableWriter(IDENTITY_COLUMNS.map(({ heading }) => heading));
  const rows = items.map((each) => IDENTITY_COLUMNS.map(({ cell }) => cell(each)));
  const more = count === items.length ? '' : `and ${count - items.length} more\n`;
  return `${JSON.stringify(asked)} fits ${count} identities; name one of them:\n\n${table.write(rows)}${more}`;
}

function exitCode(answer: ExplainAnswer, asked: boolean): ExitCode {
  if (answer.kind === 'PolicyCandidates') return EXIT.usage;
  if (answer.kind === 'PolicyValidation') return EXIT.failure;
  const { verdict } = answer.trial?.after ?? answer;
  return asked && verdict !== 'allow' ? EXIT.failure : EXIT.ok;
}
