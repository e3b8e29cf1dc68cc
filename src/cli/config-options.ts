import { Option } from 'commander';
import { flagOf, isSecret, KEY_NAMES, KEYS, type Key, type KeyName } from '../config/keys.ts';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import type { Call } from './command.ts';

/** Keys that every command has as an option of its own. */
const SHARED: ReadonlySet<KeyName> = new Set(['stateDir', 'socket']);
/** A secret on a command line could be read by everyone on the machine. */
const AS_OPTIONS = KEY_NAMES.filter((name) => !SHARED.has(name) && !isSecret(name));

/** One option for every key of the configuration. */
export function configOptions(): Option[] {
  return AS_OPTIONS.map((name) => {
    const key: Key<unknown> = KEYS[name];
    return new Option(`--${flagOf(name)} <value>`, key.help);
  });
}

/** The effective configuration of a call. Throws ConfigErrors. */
export function loadFor(call: Call): Promise<LoadedConfig> {
  const { config, stateDir, socket } = call.options;
  const given = call.options as unknown as Readonly<Record<string, unknown>>;
  const flags: Partial<Record<KeyName, string>> = {};
  for (const name of AS_OPTIONS) {
    const value = given[attributeOf(name)];
    if (typeof value === 'string') flags[name] = value;
  }
  return loadConfig({
    env: call.terminal.env,
    flags,
    ...(config !== undefined && { file: config }),
    ...(stateDir !== undefined && { stateDir }),
    ...(socket !== undefined && { socket }),
  });
}

/** The name under which the parser keeps an option. */
function attributeOf(name: KeyName): string {
  return flagOf(name).replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}
