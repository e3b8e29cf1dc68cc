import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command, Option } from 'commander';
import { completionScript, SHELLS } from '../src/cli/completion-script.ts';
import { EXIT } from '../src/cli/exit-code.ts';
import { commandTree } from '../src/cli/program.ts';
import { KEY_NAMES, KEYS, variableOf } from '../src/config/keys.ts';

/**
 * Manual pages and completions from the command tree, so that they cannot say anything else than the program does:
 * `node packaging/man.ts FOLDER VERSION DATE`. One page for the program, and one for each of its commands.
 */
const [folder = '', version = '', date = ''] = process.argv.slice(2);
const program = commandTree();
const pages = join(folder, 'man');
mkdirSync(pages, { recursive: true });
writeFileSync(join(pages, 'mesh-agent.8'), mainPage());
for (const command of program.commands) {
  writeFileSync(join(pages, `mesh-agent-${command.name()}.8`), commandPage(command));
}
for (const shell of SHELLS) writeFileSync(join(folder, `completion.${shell}`), completionScript(program, shell));

function mainPage(): string {
  return [
    title('mesh-agent'),
    section('NAME', `mesh\\-agent \\- ${roff(lowerFirst(program.description().replace(/\.$/, '')))}`),
    section('SYNOPSIS', '.B mesh\\-agent\n.I COMMAND\n[\\fIOPTION\\fR]...'),
    section(
      'COMMANDS',
      program.commands.map((each) => entry(`mesh-agent-${each.name()}(8)`, each.summary())).join('\n'),
    ),
    section('OPTIONS', optionsText(program)),
    section(
      'EXIT STATUS',
      [
        [EXIT.ok, 'fine'],
        [EXIT.failure, 'failure'],
        [EXIT.usage, 'wrong usage'],
        [EXIT.unreachable, 'the agent does not run, or cannot be reached'],
        [EXIT.degraded, 'degraded: status tells what is wrong'],
        [EXIT.notJoined, 'this machine is not joined'],
        [EXIT.consent, 'consent is needed: --yes'],
      ]
        .map(([code, words]) => entry(String(code), String(words)))
        .join('\n'),
    ),
    section(
      'ENVIRONMENT',
      `Every key of the configuration may be set by a variable.\n${KEY_NAMES.map((name) =>
        entry(variableOf(name), KEYS[name].help),
      ).join('\n')}`,
    ),
    section(
      'FILES',
      [
        ['/etc/mesh-agent/config.yaml', 'configuration'],
        ['/etc/mesh-agent/conf.d/*.yaml', 'goes over it; 50-join.yaml is what joining wrote'],
        ['/etc/mesh-agent/policies.d', 'local policies'],
        ['/var/lib/mesh-agent', 'state: keys, certificates, the last-good snapshot'],
        ['/run/mesh-agent/agent.sock', "the agent's socket"],
      ]
        .map(([path, words]) => entry(String(path), String(words)))
        .join('\n'),
    ),
    section('SEE ALSO', program.commands.map((each) => `.BR mesh\\-agent\\-${roff(each.name())} (8)`).join(',\n')),
  ].join('');
}

function commandPage(command: Command): string {
  const name = `mesh-agent-${command.name()}`;
  const below = flatten(command);
  return [
    title(name),
    section('NAME', `${roff(name)} \\- ${roff(lowerFirst(command.summary()))}`),
    section('SYNOPSIS', below.map((each) => `.B ${roff(usage(each))}`).join('\n.br\n')),
    section('DESCRIPTION', paragraphs(command.description())),
    below.length > 1 ? section('COMMANDS', below.map(subcommand).join('\n')) : '',
    below.length === 1 ? section('OPTIONS', optionsText(command)) : '',
    examplesOf(below),
    section('SEE ALSO', '.BR mesh\\-agent (8)'),
  ].join('');
}

function subcommand(command: Command): string {
  const options = optionsText(command);
  const inner = options === '' ? '' : `\n.RS\n${options}\n.RE`;
  return `.SS ${roff(pathOf(command))}\n${paragraphs(command.description())}${inner}`;
}

/** Commands that do something, at or below this one. */
function flatten(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(flatten);
}

function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
}

function usage(command: Command): string {
  return `${pathOf(command)} ${command.usage()}`;
}

function optionsText(command: Command): string {
  return command.options.map((option) => entry(option.flags, describe(option))).join('\n');
}

function describe(option: Option): string {
  const choices = option.argChoices === undefined ? '' : ` (${option.argChoices.join(', ')})`;
  const preset = option.defaultValue === undefined ? '' : ` (default: ${String(option.defaultValue)})`;
  return `${option.description}${choices}${preset}`;
}

/** The examples are a part of the help that only its output has. */
function examplesOf(commands: readonly Command[]): string {
  const lines = commands.flatMap((command) => {
    let text = '';
    command.configureOutput({
      writeOut: (piece) => {
        text += piece;
      },
    });
    command.outputHelp();
    const at = text.indexOf('\nExamples:\n');
    return at < 0
      ? []
      : text
          .slice(at + 11)
          .trimEnd()
          .split('\n');
  });
  return lines.length === 0 ? '' : section('EXAMPLES', `.nf\n${lines.map(roff).join('\n')}\n.fi`);
}

function title(name: string): string {
  return `.TH ${roff(name.toUpperCase())} 8 "${date}" "mesh\\-agent ${roff(version)}" "System administration"\n.nh\n.ad l\n`;
}

function section(name: string, text: string): string {
  return text === '' ? '' : `.SH ${name}\n${text}\n`;
}

function entry(term: string, text: string): string {
  return `.TP\n.B ${roff(term)}\n${roff(text)}`;
}

function paragraphs(text: string): string {
  return text.split(/\n\n+/).map(roff).join('\n.PP\n');
}

/** What roff would take for a request or an escape. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1')
    .replaceAll('"', '\\(dq');
}

function lowerFirst(text: string): string {
  return /^[A-Z][a-z]/.test(text) ? text.charAt(0).toLowerCase() + text.slice(1) : text;
}
