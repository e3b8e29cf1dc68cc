import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Command } from 'commander';
import type { JoinReport } from '../agent/join/join.ts';
import { ConfigErrors } from '../config/config-errors.ts';
import type { KeyName } from '../config/keys.ts';
import { DEFAULT_FILE, type LoadedConfig, loadConfig } from '../config/load.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { type Call, command, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { write, writeRecord } from './output.ts';

interface Options {
  readonly hub?: string;
  readonly token?: string;
  readonly tokenFile?: string;
  readonly name?: string;
  readonly force?: true;
}

const TOKEN_VARIABLE = 'MESH_AGENT_TOKEN';
/** What stands beside the keys that joining writes, and against them. */
const AGAINST: readonly KeyName[] = ['kvstore.config', 'kvstore.username', 'kvstore.password'];

export function joinCommand(): Command {
  return command<Options>({
    name: 'join',
    summary: 'Join this machine to a hub: make a key here, have it signed, write the configuration',
    details:
      'The token is made on the hub (`mesh-agent hub workload token NAME`), works once, and names the hub whose certificate is ' +
      'accepted. The key never leaves this machine. A join that was cut off goes on when it is run again with the same token. ' +
      `The token may also stand in ${TOKEN_VARIABLE} or come from a file, where other users cannot read it. ` +
      'Exit code: 3 the hub cannot be reached, 6 this machine is joined already.',
    examples: [
      ['join --token-file token', 'the hub is in the token'],
      ['join --hub https://hub.example.com:8443 --token TOKEN', 'by another address'],
      ['join --token-file - --force', 'the token from standard input; replaces a former join'],
    ],
    shared: ['config', 'stateDir', 'socket', 'output'],
    options: [
      new Option('--hub <url>', 'address of the hub (default: what the token says)'),
      new Option('--token <token>', 'the join token'),
      new Option('--token-file <file>', 'file with the join token, - for standard input'),
      new Option('--name <name>', 'name of the workload; it must be the one of the token'),
      new Option('--force', 'replace what a former join left'),
    ],
    run: join,
  });
}

async function join(call: Call<Options>): Promise<ExitCode> {
  const { options, terminal } = call;
  const token = readToken(call);
  // Programs that list processes show what the title says from here on, not the token.
  if (options.token !== undefined) process.title = 'mesh-agent join';
  const configFile = configFileOf(call);
  await makeConfigFile(configFile);
  const loaded = await load(call);
  checkBefore(loaded);
  const { joinHub } = await import('../agent/join/join.ts');
  const { hub, name, force } = options;
  const report = await joinHub({
    stateDir: loaded.config.stateDir,
    configFile,
    token,
    force: force === true,
    ...(hub !== undefined && { hub }),
    ...(name !== undefined && { name }),
    onStep: (step) => terminal.error.write(`${step}\n`),
  });
  await checkAfter(call, report);
  const record = { apiVersion: 'mesh-agent/v1', kind: 'Joined', ...report };
  await writeRecord({ terminal, format: options.output, record, table: () => reportText(report) });
  if (options.output === 'table' && (await isRunning(loaded.config.socket)))
    await write(terminal.out, 'The agent runs with its former configuration: systemctl restart mesh-agent\n');
  return EXIT.ok;
}

function reportText({ state, name, cluster, certificateNotAfter, config }: JoinReport): string {
  const what = state === 'joined' ? 'is joined to' : 'was joined before, with this token, to';
  return (
    `This machine ${what} cluster ${cluster.name} (id ${cluster.id}) as ${name}.\n` +
    `Certificate until ${certificateNotAfter}, renewed by the agent; configuration in ${config}.\n`
  );
}

/** Of several the most specific. @throws MeshError JOIN-TOKEN */
function readToken({ options, terminal }: Call<Options>): string {
  const { token, tokenFile } = options;
  if (token !== undefined) return token;
  if (tokenFile !== undefined) {
    try {
      return readFileSync(tokenFile === '-' ? 0 : tokenFile, 'utf8');
    } catch (cause) {
      throw new MeshError('JOIN-TOKEN', messageOf(cause), { place: tokenFile, cause });
    }
  }
  const found = terminal.env[TOKEN_VARIABLE];
  if (found !== undefined && found !== '') return found;
  throw new MeshError('JOIN-TOKEN', `none is given: --token, --token-file or ${TOKEN_VARIABLE}`);
}

export function configFileOf({ options, terminal }: Call): string {
  const named = options.config ?? terminal.env.MESH_AGENT_CONFIG;
  return named === undefined || named === '' ? DEFAULT_FILE : resolve(named);
}

/** A file that is named must exist for the agent to start. @throws MeshError JOIN-PERMISSION */
async function makeConfigFile(path: string): Promise<void> {
  if (path === DEFAULT_FILE || existsSync(path)) return;
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, '# Configuration of mesh-agent; see conf.d beside it.\n', { flag: 'wx', mode: 0o644 });
  } catch (cause) {
    throw new MeshError('JOIN-PERMISSION', messageOf(cause), { place: path, cause });
  }
}

/** The configuration as the agent would see it. */
export function load(call: Call): Promise<LoadedConfig> {
  const { config, stateDir, socket } = call.options;
  const env = { ...call.terminal.env };
  delete env[TOKEN_VARIABLE];
  return loadConfig({
    env,
    ...(config !== undefined && { file: config }),
    ...(stateDir !== undefined && { stateDir }),
    ...(socket !== undefined && { socket }),
  });
}

/** Before the token is used: what stands against joining in any case. @throws MeshError JOIN-CONFIG */
function checkBefore({ origins }: LoadedConfig): void {
  for (const key of AGAINST) {
    const origin = origins.get(key);
    if (origin !== undefined && origin.kind !== 'default')
      throw new MeshError('JOIN-CONFIG', `${key} is set`, { place: origin.place });
  }
}

/** The configuration must mean what was written. @throws MeshError JOIN-CONFIG */
async function checkAfter(call: Call, report: JoinReport): Promise<void> {
  let loaded: LoadedConfig;
  try {
    loaded = await load(call);
  } catch (cause) {
    if (!(cause instanceof ConfigErrors)) throw cause;
    const [first] = cause.problems;
    throw new MeshError('JOIN-CONFIG', `it is joined, but: ${first?.message ?? ''}`, {
      ...(first?.place !== undefined && { place: first.place }),
      cause,
    });
  }
  for (const key of [
    'name',
    'cluster.name',
    'cluster.id',
    'kvstore.endpoints',
    'kvstore.cert',
    'kvstore.key',
  ] as const) {
    const place = loaded.origins.get(key)?.place ?? '';
    if (!place.startsWith(report.config))
      throw new MeshError('JOIN-CONFIG', `it is joined, but ${key} is set over what joining wrote`, { place });
  }
}

async function isRunning(socket: string): Promise<boolean> {
  const { openClient } = await import('../api/client.ts');
  return openClient({ socket, silenceMs: 2000 })
    .status()
    .then(
      () => true,
      () => false,
    );
}
