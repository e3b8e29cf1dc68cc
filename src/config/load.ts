import { readdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { MeshError, messageOf } from '../core/errors.ts';
import { assemble } from './assemble.ts';
import type { Config } from './config.ts';
import { ConfigErrors } from './config-errors.ts';
import { defaultValue } from './defaults.ts';
import { flagOf, isLive, KEY_NAMES, type KeyName, variableOf } from './keys.ts';
import { nearest } from './nearest.ts';
import { readConfigFile } from './read-file.ts';
import { type Origin, readEnvironment, readText, type Setting, type Settings } from './settings.ts';

export const DEFAULT_FILE = '/etc/mesh-agent/config.yaml';

export interface LoadOptions {
  /** Must exist; without it MESH_AGENT_CONFIG, else the default file, which may be missing. */
  readonly file?: string;
  /** Over every other source, relative to the working directory. */
  readonly stateDir?: string;
  readonly socket?: string;
  /** Text by key, from the command line. */
  readonly flags?: Readonly<Partial<Record<KeyName, string>>>;
  readonly env: NodeJS.ProcessEnv;
}

export interface LoadedConfig {
  readonly config: Config;
  /** What it was loaded with, for `reloadConfig`. */
  readonly options: LoadOptions;
  /** Every key with its value. */
  readonly settings: ReadonlyMap<KeyName, Setting>;
  readonly origins: ReadonlyMap<KeyName, Origin>;
  /** Worth a look, but no reason not to run. */
  readonly warnings: readonly MeshError[];
  /** The files that were read, in order. */
  readonly files: readonly string[];
}

/**
 * The effective configuration: flags over environment over conf.d over the file over defaults, key by key.
 * @throws ConfigErrors with every problem of every source
 */
export async function loadConfig(options: LoadOptions): Promise<LoadedConfig> {
  const gathered = gather(options);
  const { settings, problems, warnings } = gathered;
  const config = assemble(settings, { problems, warnings });
  if (problems.length > 0 || config === undefined) throw new ConfigErrors(problems);
  const origins = new Map([...settings].map(([name, setting]) => [name, setting.origin] as const));
  return { config, options, settings, origins, warnings, files: gathered.files };
}

export interface ReloadedConfig {
  /** What is to be in force: the new value of every key that is live, the value of the start for all others. */
  readonly loaded: LoadedConfig;
  /** Keys that have another value than before. */
  readonly changed: ReadonlySet<KeyName>;
  /** Keys with a new value that counts from the next start on. */
  readonly waiting: readonly KeyName[];
}

/**
 * Reads the same sources again for a program that runs with `running`.
 * @throws ConfigErrors with every problem of every source: nothing is to be changed then
 */
export async function reloadConfig(running: LoadedConfig): Promise<ReloadedConfig> {
  const found = await loadConfig(running.options);
  const settings: Settings = new Map();
  const changed = new Set<KeyName>();
  const waiting: KeyName[] = [];
  for (const name of KEY_NAMES) {
    const [setting, before] = [found.settings.get(name), running.settings.get(name)];
    if (setting === undefined || before === undefined) continue;
    const same = isDeepStrictEqual(setting.value, before.value);
    settings.set(name, same || isLive(name) ? setting : before);
    if (same) continue;
    if (isLive(name)) changed.add(name);
    else waiting.push(name);
  }
  // Each of the two is checked already; together they might not fit.
  const problems: MeshError[] = [];
  const config = assemble(settings, { problems, warnings: [] });
  if (config === undefined) throw new ConfigErrors(problems);
  const origins = new Map([...settings].map(([name, setting]) => [name, setting.origin] as const));
  return { loaded: { ...found, config, settings, origins }, changed, waiting };
}

/**
 * The socket alone, for commands that only ask the agent: another fault of the configuration must not keep an operator
 * from seeing the status.
 * @throws ConfigErrors when a file that was named cannot be read, or its socket: another agent may answer on the default one
 */
export function socketPath(options: LoadOptions): string {
  const { settings, problems } = gather(options);
  const socket = settings.get('socket');
  if (socket?.origin.kind === 'flag' && typeof socket.value === 'string') return socket.value;
  const fatal = problems.filter((problem) => problem.code === 'CFG-FILE' && options.file !== undefined);
  if (fatal.length > 0 || typeof socket?.value !== 'string') throw new ConfigErrors(problems);
  return socket.value;
}

interface Gathered {
  readonly settings: Settings;
  readonly problems: MeshError[];
  readonly warnings: MeshError[];
  readonly files: readonly string[];
}

function gather(options: LoadOptions): Gathered {
  const problems: MeshError[] = [];
  const warnings: MeshError[] = [];
  const { layers, files } = readFiles(options, problems);
  const environment = readEnvironment(options.env, KEY_NAMES);
  problems.push(...environment.problems);
  const variables = KEY_NAMES.map(variableOf);
  for (const variable of environment.unknown) {
    const guess = nearest(variable, variables);
    const detail = guess === undefined ? variable : `${variable}; did you mean ${guess}?`;
    warnings.push(new MeshError('CFG-VARIABLE', detail, { place: 'environment' }));
  }
  const settings: Settings = new Map();
  for (const layer of [...layers, environment.settings, readFlags(options, problems)]) {
    for (const [name, setting] of layer) settings.set(name, setting);
  }
  addDefaults(settings);
  return { settings, problems, warnings, files };
}

function readFiles(options: LoadOptions, problems: MeshError[]): { layers: Settings[]; files: string[] } {
  const named = options.file ?? options.env.MESH_AGENT_CONFIG;
  const main = named === undefined || named === '' ? DEFAULT_FILE : resolve(named);
  const layers: Settings[] = [];
  const files: string[] = [];
  const readOne = (file: string, required: boolean): void => {
    const layer = readConfigFile(file, problems);
    if (layer !== undefined) {
      layers.push(layer);
      files.push(file);
    } else if (required) problems.push(new MeshError('CFG-FILE', 'there is no such file', { place: file }));
  };
  readOne(main, main !== DEFAULT_FILE || options.file !== undefined);
  for (const file of partsBeside(main, problems)) readOne(file, false);
  return { layers, files };
}

/** `conf.d/*.yaml` beside the file, by name; hidden files are left out. */
function partsBeside(main: string, problems: MeshError[]): string[] {
  const folder = join(dirname(main), 'conf.d');
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith('.yaml') && !name.startsWith('.'))
      .sort()
      .map((name) => join(folder, name));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') {
      problems.push(new MeshError('CFG-FILE', messageOf(cause), { place: folder, cause }));
    }
    return [];
  }
}

function readFlags(options: LoadOptions, problems: MeshError[]): Settings {
  const into: Settings = new Map();
  const shared = {
    ...(options.stateDir !== undefined && { stateDir: resolve(options.stateDir) }),
    ...(options.socket !== undefined && { socket: resolve(options.socket) }),
  };
  const flags: Partial<Record<KeyName, string>> = { ...options.flags, ...shared };
  for (const name of KEY_NAMES) {
    const text = flags[name];
    if (text === undefined) continue;
    readText({ name, text, origin: { kind: 'flag', place: `--${flagOf(name)}` }, into, problems });
  }
  return into;
}

function addDefaults(settings: Settings): void {
  const stateDir = (settings.get('stateDir')?.value ?? defaultValue('stateDir', {})) as string;
  for (const name of KEY_NAMES) {
    if (settings.has(name)) continue;
    const value = defaultValue(name, { hostname: hostname(), stateDir });
    settings.set(name, { value, origin: { kind: 'default', place: 'default' } });
  }
}
