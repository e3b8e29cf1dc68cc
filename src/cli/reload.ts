import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { askRecord } from '../api/ask.ts';
import { API_VERSION, type ConfigurationRecord } from '../api/types.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import type { HubStatusRecord } from '../hub/types.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { hubSocketOf } from './hub/place.ts';
import { writeRecord } from './output.ts';
import { problemsText } from './report-error.ts';

const TIMEOUT_MS = 30_000;
const LOOK_MS = 50;

/** A daemon of ours as its status shows it. */
interface Daemon {
  readonly pid: number;
  /** Undefined: its version does not reload. */
  readonly configuration: ConfigurationRecord | undefined;
}

export function configReloadCommand(): Command {
  return command({
    name: 'reload',
    summary: 'Let the agent read its configuration again, and show what came of it',
    details:
      'What systemctl reload mesh-agent runs. A configuration with any problem changes nothing at all. Keys that need a restart ' +
      'are named. Exit code: 0 taken over, 1 not taken over, 3 the agent does not run.',
    examples: [['config reload', 'after an edit of the configuration']],
    shared: SHOWS_AGENT,
    async run(call) {
      const client = askAgent(call);
      return reload(call, async () => {
        const { agent, configuration } = await client.status();
        return { pid: agent.pid, configuration };
      });
    },
  });
}

export function hubReloadCommand(): Command {
  return command({
    name: 'reload',
    summary: 'Let the hub read hub.yaml again, and show what came of it',
    details:
      'What systemctl reload mesh-agent-hub runs. A file with any problem changes nothing at all. Keys that need a restart are ' +
      'named. Exit code: 0 taken over, 1 not taken over, 3 the hub does not run.',
    examples: [['hub reload', 'after an edit of hub.yaml']],
    shared: ['socket', 'output'],
    async run(call) {
      const place = { socket: hubSocketOf(call), whom: 'hub' } as const;
      return reload(call, () => askRecord<HubStatusRecord>(place, '/v1/status').then(daemonOf));
    },
  });
}

const daemonOf = ({ pid, configuration }: HubStatusRecord): Daemon => ({ pid, configuration });

/** By the signal, which only who may end it may send too; what came of it is in its status. Throws MeshError. */
async function reload(call: Call, look: () => Promise<Daemon>): Promise<ExitCode> {
  const { pid, configuration } = await look();
  if (configuration === undefined)
    throw new MeshError('API-REQUEST', 'the version that runs does not reload: restart it');
  signal(pid);
  const record = await outcome(look, { pid, requested: configuration.requested });
  const { changed, waiting, problems, files } = record;
  await writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: {
      apiVersion: API_VERSION,
      kind: 'Reload',
      taken: problems.length === 0,
      changed,
      waiting,
      problems,
      files,
    },
    table: () => reloadText(record),
  });
  return problems.length === 0 ? EXIT.ok : EXIT.failure;
}

function signal(pid: number): void {
  // Whoever answers on a socket must not make us signal everybody (-1), our own group (0) or the first process.
  if (!Number.isSafeInteger(pid) || pid <= 1)
    throw new MeshError('API-FAILED', `it says that it is process ${JSON.stringify(pid)}`);
  try {
    process.kill(pid, 'SIGHUP');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code === 'EPERM' ? 'API-DENIED' : 'API-UNREACHABLE';
    throw new MeshError(code, `process ${pid}: ${messageOf(cause)}`, { cause });
  }
}

async function outcome(
  look: () => Promise<Daemon>,
  before: { readonly pid: number; readonly requested: number },
): Promise<ConfigurationRecord> {
  const end = performance.now() + TIMEOUT_MS;
  for (;;) {
    const { pid, configuration } = await look();
    if (pid !== before.pid) throw new MeshError('API-FAILED', 'it was started anew meanwhile');
    if (configuration !== undefined && configuration.completed > before.requested) return configuration;
    if (performance.now() > end) throw new MeshError('API-FAILED', `it is not done after ${TIMEOUT_MS / 1000} s`);
    await sleep(LOOK_MS);
  }
}

function reloadText({ changed, waiting, problems }: ConfigurationRecord): string {
  if (problems.length > 0) return `${problemsText(problems, 'error')}nothing was changed\n`;
  const lines = [changed.length === 0 ? 'nothing to change' : `in force: ${changed.join(', ')}`];
  if (waiting.length > 0) lines.push(`in force after a restart: ${waiting.join(', ')}`);
  return `${lines.join('\n')}\n`;
}
