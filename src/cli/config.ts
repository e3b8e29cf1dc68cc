import type { Command } from 'commander';
import { API_VERSION } from '../api/types.ts';
import { ConfigErrors } from '../config/config-errors.ts';
import { flagOf, isLive, isSecret, KEYS, type Key, variableOf } from '../config/keys.ts';
import type { LoadedConfig } from '../config/load.ts';
import { type ShownKey, shownKeys, shownTree } from '../config/show.ts';
import type { MeshError } from '../core/errors.ts';
import { checkConfigFiles } from './check-config-files.ts';
import { type Call, command, group } from './command.ts';
import { configOptions, loadFor } from './config-options.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { writeRecord } from './output.ts';
import { configReloadCommand } from './reload.ts';
import { problemsText } from './report-error.ts';
import { TableWriter } from './table.ts';
import { plural } from './words.ts';

const SHARED = ['config', 'stateDir', 'socket', 'output'] as const;

export function configCommands(): Command {
  return group('config', 'The configuration of this machine', [
    command({
      name: 'check',
      summary: 'Check the configuration and every file that it names',
      details:
        'Shows every problem with its file and line; certificates must be valid now and belong to their keys. ' +
        'Exit code: 0 fine (there may be warnings), 1 not fine, 2 wrong usage.',
      examples: [
        ['config check', 'what the agent would use'],
        ['config check --config ./new.yaml', 'before it is put in place'],
      ],
      shared: SHARED,
      options: configOptions(),
      run: check,
    }),
    configReloadCommand(),
    command({
      name: 'show',
      summary: 'Show the effective configuration, and where each value comes from',
      details: 'Secrets are not shown.',
      examples: [
        ['config show', 'every key with value and origin'],
        ['config show -o wide', 'also whether a reload takes it over, its variable and its option'],
        ['config show -o yaml', 'as a configuration file, below "config"'],
      ],
      shared: SHARED,
      options: configOptions(),
      run: show,
    }),
  ]);
}

async function check(call: Call): Promise<ExitCode> {
  let loaded: LoadedConfig | undefined;
  let problems: readonly MeshError[] = [];
  let warnings: readonly MeshError[] = [];
  try {
    loaded = await loadFor(call);
    const found = await checkConfigFiles(loaded);
    problems = found.problems;
    warnings = [...loaded.warnings, ...found.warnings];
  } catch (error) {
    if (!(error instanceof ConfigErrors)) throw error;
    problems = error.problems;
  }
  await writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: {
      apiVersion: API_VERSION,
      kind: 'ConfigCheck',
      ok: problems.length === 0,
      files: loaded?.files ?? [],
      problems: problems.map(problemRecord),
      warnings: warnings.map(problemRecord),
    },
    table: () => checkText(loaded, problems, warnings),
  });
  return problems.length === 0 ? EXIT.ok : EXIT.failure;
}

function checkText(
  loaded: LoadedConfig | undefined,
  problems: readonly MeshError[],
  warnings: readonly MeshError[],
): string {
  const lines = problemsText(problems, 'error') + problemsText(warnings, 'warning');
  if (problems.length > 0) return `${lines}${plural(problems.length, 'problem')}\n`;
  const files = loaded === undefined || loaded.files.length === 0 ? 'no file, defaults only' : loaded.files.join(', ');
  return `${lines}configuration is fine (${files})\n`;
}

function problemRecord({ code, message, place, remedy }: MeshError): object {
  return { code, message, ...(place !== undefined && { place }), remedy };
}

async function show(call: Call): Promise<ExitCode> {
  const loaded = await loadFor(call);
  const keys = shownKeys(loaded);
  await writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: {
      apiVersion: API_VERSION,
      kind: 'Config',
      files: loaded.files,
      config: shownTree(keys),
      origins: Object.fromEntries(keys.map(({ name, origin }) => [name, origin])),
    },
    table: (wide) => showText(keys, wide),
  });
  call.terminal.error.write(problemsText(loaded.warnings, 'warning'));
  return EXIT.ok;
}

function showText(keys: readonly ShownKey[], wide: boolean): string {
  const more = wide ? ['RELOAD', 'VARIABLE', 'OPTION', 'MEANING'] : [];
  const table = new TableWriter(['KEY', 'VALUE', 'ORIGIN', ...more]);
  return table.write(
    keys.map(({ name, value, origin }) => {
      const key: Key<unknown> = KEYS[name];
      const extra = wide
        ? [
            isLive(name) ? 'yes' : 'restart',
            variableOf(name),
            isSecret(name) ? '-' : `--${flagOf(name)}`,
            `${key.help} (${key.kind.expects})`,
          ]
        : [];
      return [name, valueText(value), origin, ...extra];
    }),
  );
}

function valueText(value: unknown): string {
  if (value === undefined) return '-';
  return typeof value === 'string' && value !== '' ? value : JSON.stringify(value);
}
