import type { Command } from 'commander';
import type { StatusRecord } from '../api/types.ts';
import { MeshError } from '../core/errors.ts';
import { sleep } from '../core/job.ts';
import { printable } from '../observe/printable.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, InvalidArgumentError, Option } from './command.ts';
import { concernsOf } from './concerns.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { write, writeRecord } from './output.ts';
import { briefText, statusText } from './status-text.ts';
import { span } from './words.ts';

interface Options {
  readonly wait?: number;
  readonly brief?: boolean;
  readonly verbose?: boolean;
  readonly allClusters?: boolean;
}

const WAIT_SECONDS = 300;
const POLL_MS = 250;

export function statusCommand(): Command {
  return command<Options>({
    name: 'status',
    summary: 'Show how the agent is: what is wrong first, then part by part',
    details:
      'Exit code: 0 fine, 3 the agent does not run or cannot be reached, 4 degraded, 5 not joined. With --wait it is that of the last look.',
    examples: [
      ['status', 'the overview'],
      ['status --verbose', 'every line of every cluster, devices, what always passes'],
      ['status --wait 60', 'until all is fine, 60 s at most'],
      ['status --brief', 'one line'],
      ['status -o json', 'for scripts'],
    ],
    shared: SHOWS_AGENT,
    options: [
      new Option('--wait [seconds]', `wait until all is fine (default: ${WAIT_SECONDS} s at most)`)
        .preset(String(WAIT_SECONDS))
        .argParser(seconds),
      new Option('--brief', 'one line').conflicts('verbose'),
      new Option('--verbose', 'show everything'),
      new Option('--all-clusters', 'every line of every cluster'),
    ],
    async run(call) {
      const { wait } = call.options;
      const status = wait === undefined ? await askAgent(call).status() : await waitForFine(call, wait);
      await show(call, status);
      return EXIT_OF[status.state] ?? EXIT.degraded;
    },
  });
}

const EXIT_OF: Readonly<Record<string, ExitCode>> = {
  ok: EXIT.ok,
  degraded: EXIT.degraded,
  'not-joined': EXIT.notJoined,
};

function seconds(text: string): number {
  const value = Number(text);
  if (!/^[0-9]{1,6}$/.test(text)) throw new InvalidArgumentError('It must be a whole number of seconds.');
  return value;
}

function show(call: Call<Options>, status: StatusRecord): Promise<void> {
  const { terminal, options } = call;
  if (options.brief === true && options.output === 'table') return write(terminal.out, briefText(status));
  return writeRecord({
    terminal,
    format: options.output,
    record: status,
    table: (wide) =>
      statusText(status, {
        now: Date.now(),
        color: terminal.color,
        verbose: options.verbose === true || wide,
        allClusters: options.allClusters === true,
      }),
  });
}

/** Looks again until all is fine or the time is over; then the last look counts, also when it found no agent. */
async function waitForFine(call: Call<Options>, limit: number): Promise<StatusRecord> {
  const client = askAgent(call);
  const start = performance.now();
  const notes = new Notes(call);
  for (;;) {
    const seen = await client.status().catch((error: unknown) => {
      if (error instanceof MeshError && error.retryable) return error;
      throw error;
    });
    const over = performance.now() - start >= limit * 1000;
    if (seen instanceof MeshError) {
      if (over) throw seen;
      notes.say(seen.message);
    } else {
      if (over || seen.state === 'ok') return seen;
      const [first] = concernsOf(seen);
      notes.say(first === undefined ? seen.state : `${first.subject}: ${first.text}`);
    }
    await sleep(Math.min(POLL_MS, Math.max(1, limit * 1000 - (performance.now() - start))));
  }
}

/** Says what is waited for, each time that it changes. */
class Notes {
  readonly #call: Call<Options>;
  readonly #start = performance.now();
  #last = '';

  constructor(call: Call<Options>) {
    this.#call = call;
  }

  say(text: string): void {
    if (text === this.#last) return;
    this.#last = text;
    this.#call.terminal.error.write(`waiting (${span(performance.now() - this.#start)}): ${printable(text)}\n`);
  }
}
