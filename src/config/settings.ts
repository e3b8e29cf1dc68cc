import { MeshError } from '../core/errors.ts';
import { KEYS, type Key, type KeyName, variableOf } from './keys.ts';
import { Unacceptable } from './values.ts';

/** Where the value of a key comes from. */
export interface Origin {
  readonly kind: 'default' | 'file' | 'environment' | 'flag';
  /** `default`, `/etc/mesh-agent/config.yaml:12`, `MESH_AGENT_NAME`, `--name`. */
  readonly place: string;
}

export interface Setting {
  /** Checked by the kind of its key; undefined when it was refused. */
  readonly value: unknown;
  /** It was given, but is not acceptable; the problem is told already. */
  readonly refused?: true;
  readonly origin: Origin;
}

/** What one source sets; a later source goes over an earlier one, key by key. */
export type Settings = Map<KeyName, Setting>;

/** Reads one value of a source that is plain text; the problem goes to the list. */
export function readText(source: {
  readonly name: KeyName;
  readonly text: string;
  readonly origin: Origin;
  readonly into: Settings;
  readonly problems: MeshError[];
}): void {
  const { name, origin } = source;
  const kind: Key<unknown>['kind'] = KEYS[name].kind;
  try {
    source.into.set(name, { value: kind.read(kind.fromText(source.text)), origin });
  } catch (error) {
    if (!(error instanceof Unacceptable)) throw error;
    source.into.set(name, { value: undefined, refused: true, origin });
    source.problems.push(valueProblem(name, error, origin.place));
  }
}

export function valueProblem(name: KeyName, error: Unacceptable, place: string): MeshError {
  const key: Key<unknown> = KEYS[name];
  // What was given for a secret must not appear in a message.
  const reason = key.secret === true ? `is not ${key.kind.expects}` : error.message;
  return new MeshError('CFG-VALUE', `${name}: ${reason}`, { place });
}

/** The environment's settings, and warnings for variables of our prefix that mean nothing. */
export function readEnvironment(
  env: NodeJS.ProcessEnv,
  names: readonly KeyName[],
): { readonly settings: Settings; readonly problems: MeshError[]; readonly unknown: readonly string[] } {
  const settings: Settings = new Map();
  const problems: MeshError[] = [];
  const known = new Map(names.map((name) => [variableOf(name), name]));
  const unknown: string[] = [];
  for (const [variable, text] of Object.entries(env).sort()) {
    if (!variable.startsWith('MESH_AGENT_') || text === undefined || OWN_VARIABLES.has(variable)) continue;
    const name = known.get(variable);
    if (name === undefined) unknown.push(variable);
    else readText({ name, text, origin: { kind: 'environment', place: variable }, into: settings, problems });
  }
  return { settings, problems, unknown };
}

/** Names the configuration file itself, so it is no key of it. */
const OWN_VARIABLES: ReadonlySet<string> = new Set(['MESH_AGENT_CONFIG']);
