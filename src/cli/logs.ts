import type { Command } from 'commander';
import { loadConfig } from '../config/load.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { tailFile } from '../host/file-tail.ts';
import { streamLines } from '../host/line-stream.ts';
import type { LogLevel } from '../observe/log.ts';
import { prettyLine } from '../observe/pretty-line.ts';
import { printableJson } from '../observe/printable.ts';
import { type Call, command, InvalidArgumentError, Option } from './command.ts';
import { EXIT } from './exit-code.ts';
import { write } from './output.ts';

interface Options {
  readonly follow?: boolean;
  readonly lines: number;
  /** Milliseconds since the epoch. */
  readonly since?: number;
  readonly level: LogLevel;
  readonly hub?: boolean;
}

type Source = AsyncGenerator<string | undefined>;

const LEVELS: readonly LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error'];
const LINES = 100;
const MAX_LINES = 100_000;
/** Of the journal so many lines are looked through for those of a level, before it is followed. */
const FOLLOW_BACK = 2000;

export function logsCommand(): Command {
  return command<Options>({
    name: 'logs',
    summary: 'Show what the agent logged, from the journal or its file',
    details:
      'With `log.file` in the configuration it is that file, else the journal of mesh-agent.service. For people by default; with -o json one JSON object a line, as it was logged.',
    examples: [
      ['logs -f', 'the last lines, and what comes'],
      ['logs --since 2h --level warn', 'what went wrong in the last two hours'],
      ['logs --hub -n 500', "of the hub's service"],
    ],
    shared: ['config', 'stateDir', 'output'],
    options: [
      new Option('-f, --follow', 'go on with what comes'),
      new Option('-n, --lines <number>', 'so many lines at most, the last ones').default(LINES).argParser(lineCount),
      new Option(
        '--since <time>',
        'not before: 30s, 15m, 2h, 3d ago, or a date such as 2026-11-24T10:00:00Z',
      ).argParser(sinceTime),
      new Option('--level <level>', 'this level and worse').choices(LEVELS).default('trace'),
      new Option('--hub', 'the log of the hub'),
    ],
    async run(call) {
      const last: string[] = [];
      let live = false;
      const show = (line: string): Promise<void> => write(call.terminal.out, rendered(line, call));
      for await (const line of await sourceOf(call)) {
        if (line === undefined) {
          for (const each of last.splice(0)) await show(each);
          live = true;
          continue;
        }
        if (!wanted(line, call.options)) continue;
        if (live) await show(line);
        else if (last.push(line) > call.options.lines) last.shift();
      }
      for (const each of last) await show(each);
      return EXIT.ok;
    },
  });
}

/** The lines, oldest first; `undefined` where those begin that come from now on. */
async function sourceOf(call: Call<Options>): Promise<Source> {
  const { options } = call;
  const file = options.hub === true ? undefined : await logFile(call);
  return file === undefined ? journal(options) : fromFile(file, options.follow === true);
}

/** Of the configuration that the agent would read; one that is no good has no file either. */
async function logFile({ terminal, options }: Call<Options>): Promise<string | undefined> {
  try {
    const { config } = await loadConfig({
      env: terminal.env,
      ...(options.config !== undefined && { file: options.config }),
      ...(options.stateDir !== undefined && { stateDir: options.stateDir }),
    });
    return config.log.file;
  } catch {
    return undefined;
  }
}

async function* fromFile(path: string, follow: boolean): Source {
  try {
    yield* tailFile(path, { follow });
  } catch (cause) {
    throw new MeshError('OBS-NO-LOG', messageOf(cause), { place: path, cause });
  }
}

async function* journal({ follow, hub, lines, level, since }: Options): Source {
  const unit = hub === true ? 'mesh-agent-hub.service' : 'mesh-agent.service';
  const args = ['--unit', unit, '--output', 'cat', '--no-pager', '--quiet'];
  if (since !== undefined) args.push('--since', `@${Math.floor(since / 1000)}`);
  const all = level === 'trace' ? lines : FOLLOW_BACK;
  if (follow === true) args.push('--follow', '--lines', String(all));
  // Those of a level have to be looked for; the journal knows no levels of ours.
  else if (level === 'trace') args.push('--lines', String(lines));
  try {
    if (follow === true) yield undefined;
    yield* streamLines('journalctl', args);
  } catch (cause) {
    throw new MeshError('OBS-NO-LOG', messageOf(cause), { place: unit, cause });
  }
}

function wanted(line: string, { level, since }: Options): boolean {
  const facts = factsOf(line);
  // What systemd says of the unit is always wanted.
  if (facts === undefined) return line !== '';
  const at = LEVELS.indexOf(facts.level as LogLevel);
  const time = typeof facts.time === 'string' ? Date.parse(facts.time) : Number.NaN;
  return (at < 0 || at >= LEVELS.indexOf(level)) && (since === undefined || Number.isNaN(time) || time >= since);
}

function rendered(line: string, { terminal, options }: Call<Options>): string {
  if (options.output !== 'json') return prettyLine(line, terminal.color);
  return `${printableJson(factsOf(line) === undefined ? JSON.stringify({ msg: line }) : line)}\n`;
}

function factsOf(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function lineCount(text: string): number {
  const value = Number(text);
  if (!/^[0-9]{1,6}$/.test(text) || value < 1 || value > MAX_LINES)
    throw new InvalidArgumentError(`It must be a number from 1 to ${MAX_LINES}.`);
  return value;
}

const UNITS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Of `2h` (ago) or a date; milliseconds since the epoch. */
export function sinceTime(text: string): number {
  const match = /^([0-9]{1,6})([smhd])$/.exec(text);
  const time = match === null ? Date.parse(text) : Date.now() - Number(match[1]) * (UNITS[match[2] ?? ''] ?? 0);
  if (!Number.isFinite(time) || time < 0) throw new InvalidArgumentError('It must be a time such as 2h, or a date.');
  return time;
}
