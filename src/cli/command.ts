import { Argument, Command, type Help, InvalidArgumentError, Option } from 'commander';
import { EXIT, type ExitCode } from './exit-code.ts';
import type { Terminal } from './terminal.ts';

export const OUTPUT_FORMATS = ['table', 'wide', 'json', 'yaml'] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number];

/** Options of every command. They may stand before or after the command's name. */
export interface SharedOptions {
  readonly config?: string;
  readonly stateDir?: string;
  readonly socket?: string;
  readonly output: OutputFormat;
}

/** The shared options that a command heeds; its help shows no others. */
export type SharedOption = keyof SharedOptions;

export interface Call<Options = object> {
  readonly terminal: Terminal;
  readonly options: SharedOptions & Options;
  /** Positional arguments, `''` for one that is optional and was left out. */
  readonly args: readonly string[];
  /** The whole tree, for completion. */
  readonly program: Command;
}

export interface CommandSpec<Options> {
  /** Name and arguments: `get <ip>`. */
  readonly name: string;
  readonly summary: string;
  /** What `--help` says below the summary. */
  readonly details?: string;
  /** Command lines without the program's name, each with a remark. */
  readonly examples: readonly (readonly [line: string, remark: string])[];
  readonly shared: readonly SharedOption[];
  readonly arguments?: readonly Argument[];
  readonly options?: readonly Option[];
  /** Parses nothing, calls and renders; the exit code. Throws MeshError. */
  run(call: Call<Options>): Promise<ExitCode>;
}

const heeded = new WeakMap<Command, readonly SharedOption[]>();
const runners = new WeakMap<Command, (program: Command, terminal: Terminal) => Promise<ExitCode>>();

/** A command that does something. */
export function command<Options = object>(spec: CommandSpec<Options>): Command {
  const [name, ...arguments_] = spec.name.split(' ');
  const result = new Command(name).summary(spec.summary);
  if (arguments_.length > 0) result.arguments(arguments_.join(' '));
  result.description(spec.details === undefined ? `${spec.summary}.` : `${spec.summary}.\n\n${spec.details}`);
  for (const argument of spec.arguments ?? []) result.addArgument(argument);
  for (const option of spec.options ?? []) result.addOption(option);
  result.addHelpText('after', examplesText(spec.examples));
  heeded.set(result, spec.shared);
  result.action(() => undefined);
  runners.set(result, (program, terminal) =>
    spec.run({
      terminal,
      program,
      options: result.optsWithGlobals<SharedOptions & Options>(),
      args: result.processedArgs.flat().map((value: unknown) => (typeof value === 'string' ? value : '')),
    }),
  );
  return result;
}

/** A name that only holds other commands. `usual`: the one that is meant when none is named. */
export function group(name: string, summary: string, commands: readonly Command[], usual?: string): Command {
  const result = new Command(name).summary(summary).description(`${summary}.`).helpCommand(false);
  for (const each of commands) result.addCommand(each, { isDefault: each.name() === usual });
  heeded.set(result, []);
  return result;
}

/** Runs the command that the arguments named; undefined when they named none. */
export function runNamed(program: Command, named: Command, terminal: Terminal): Promise<ExitCode> {
  return runners.get(named)?.(program, terminal) ?? Promise.resolve(EXIT.usage);
}

function examplesText(examples: CommandSpec<object>['examples']): string {
  const lines = examples.map(([line, remark]) => [`mesh-agent ${line}`, remark] as const);
  const width = Math.max(...lines.map(([line]) => line.length));
  return `\nExamples:\n${lines.map(([line, remark]) => `  ${line.padEnd(width)}   ${remark}`).join('\n')}`;
}

export function addSharedOptions(program: Command): void {
  program.addOption(new Option('--config <file>', 'configuration file (default: /etc/mesh-agent/config.yaml)'));
  program.addOption(new Option('--state-dir <dir>', 'folder of the state (default: /var/lib/mesh-agent)'));
  program.addOption(new Option('--socket <path>', "the agent's socket (default: /run/mesh-agent/agent.sock)"));
  program.addOption(new Option('-o, --output <format>', 'form of the output').choices(OUTPUT_FORMATS).default('table'));
}

/** A command shows the shared options that it heeds, and no others. */
export const helpSettings: Partial<Help> = {
  showGlobalOptions: true,
  visibleGlobalOptions(this: Help, named: Command) {
    const names: readonly string[] = heeded.get(named) ?? [];
    const root = rootOf(named);
    return root === named ? [] : root.options.filter((option) => names.includes(option.attributeName()));
  },
  optionDescription(option: Option) {
    const choices = option.argChoices === undefined ? '' : ` (${option.argChoices.join(', ')})`;
    const preset = option.defaultValue === undefined ? '' : ` (default: ${String(option.defaultValue)})`;
    return `${option.description}${choices}${preset}`;
  },
};

function rootOf(command: Command): Command {
  let root = command;
  while (root.parent !== null) root = root.parent;
  return root;
}

export { Argument, InvalidArgumentError, Option };
