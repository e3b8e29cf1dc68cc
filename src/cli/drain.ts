import type { Command } from 'commander';
import type { DrainRecord } from '../api/types.ts';
import { sleep } from '../core/job.ts';
import { printable } from '../observe/printable.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { seconds } from './hub/asking.ts';
import { writeRecord } from './output.ts';
import { plural, span } from './words.ts';

interface Options {
  readonly undo?: true;
  readonly wait?: true;
  readonly timeout: number;
}

const TIMEOUT_S = 300;
const POLL_MS = 1000;
/** Clusters follow the hub with a delay: it has to stay quiet for so long. */
const QUIET_MS = 5000;

export function drainCommand(): Command {
  return command<Options>({
    name: 'drain',
    summary: 'Take this machine out of rotation: services of the hub lead no new connections here',
    details:
      'Connections that run go on; nothing is closed. It lasts over restarts until --undo. With --wait it returns when no cluster leads here ' +
      'and no connection to a served port was open for 5 s. Exit code: 4 when some are left after the time, 5 for a machine without a hub.',
    examples: [
      ['drain --wait', 'until nothing is left, 5 minutes at most'],
      ['drain --wait --timeout 30m', 'for longer ones'],
      ['drain --undo', 'back in rotation'],
    ],
    shared: SHOWS_AGENT,
    options: [
      new Option('--undo', 'take new connections again').conflicts(['wait', 'timeout']),
      new Option('--wait', 'until no connection is left'),
      new Option('--timeout <time>', 'how long to wait: 90s, 30m, 1h').argParser(seconds).default(TIMEOUT_S, '5m'),
    ],
    run: drain,
  });
}

async function drain(call: Call<Options>): Promise<ExitCode> {
  const { undo, wait } = call.options;
  const first = await askAgent(call).setDrain(undo !== true);
  const last = wait === true ? await untilQuiet(call, first) : first;
  const left = wait === true && isBusy(last);
  const table = (): string => text(last, left);
  await writeRecord({ terminal: call.terminal, format: call.options.output, record: last, table });
  return left ? EXIT.degraded : EXIT.ok;
}

/** Looks again and again, and says what is left each time that it is something else. */
async function untilQuiet(call: Call<Options>, first: DrainRecord): Promise<DrainRecord> {
  const client = askAgent(call);
  const began = performance.now();
  const end = began + call.options.timeout * 1000;
  let seen = first;
  let said = '';
  let quietSince = began;
  for (;;) {
    const now = performance.now();
    if (isBusy(seen)) quietSince = now;
    if (now - quietSince >= QUIET_MS || now >= end) return seen;
    const left = isBusy(seen) ? leftText(seen) : 'nothing is left; looking whether it stays so';
    if (left !== said) call.terminal.error.write(`waiting (${span(now - began)}): ${printable(left)}\n`);
    said = left;
    await sleep(Math.min(POLL_MS, Math.max(1, end - now)));
    seen = await client.drain();
    // Somebody changed his mind.
    if (!seen.draining) return seen;
  }
}

function isBusy({ published, connections }: DrainRecord): boolean {
  return published.length > 0 || connections === null || connections.length > 0;
}

function leftText({ published, connections, uncounted }: DrainRecord): string {
  const known = connections ?? [];
  const count = known.reduce((sum, each) => sum + each.count, 0);
  const ports = known.map(({ protocol, port, count: each }) => `${protocol.toLowerCase()}/${port}: ${each}`);
  const open = count === 0 ? [] : [`${plural(count, 'connection')} (${ports.join(', ')})`];
  if (connections === null) open.push(`connections cannot be counted: ${uncounted}`);
  const where = published.length === 0 ? [] : [`the hub still publishes it for ${published.join(', ')}`];
  return [...where, ...open].join('; ');
}

function text(record: DrainRecord, left: boolean): string {
  const { draining, services } = record;
  if (!draining) return 'This machine takes new connections.\n';
  const what = services.length === 0 ? 'no service selects it' : `out of ${services.join(', ')}`;
  const open = isBusy(record) ? ` Left: ${leftText(record)}.` : '';
  return printable(`This machine is drained: ${what}.${open}${left ? ' The time is over.' : ''}`).concat('\n');
}
