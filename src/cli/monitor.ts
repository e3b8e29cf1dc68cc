import type { Command } from 'commander';
import { type FlowParameters, parseFlowQuery } from '../api/flow-query.ts';
import type { FlowEvent, FlowRecord } from '../api/flow-types.ts';
import { duration } from '../config/values.ts';
import { ERROR_CODES, messageOf } from '../core/errors.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, InvalidArgumentError, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { given } from './filters.ts';
import { compactText, flowText, lostText, type MonitorStyle } from './monitor-text.ts';
import { jsonText, write, writeList, yamlText } from './output.ts';
import { plural } from './words.ts';

interface Options extends Omit<FlowParameters, 'follow'> {
  readonly follow?: true;
  readonly drops?: true;
  readonly compact?: true;
}

/** Checks a filter before anything is asked. */
function filter(flags: string, name: keyof FlowParameters, what: string): Option {
  return new Option(flags, what).argParser((text: string) => {
    try {
      parseFlowQuery({ [name]: text });
      return text;
    } catch (error) {
      // The agent was not asked, and the option is named already.
      throw new InvalidArgumentError(messageOf(error).replace(`${ERROR_CODES['API-REQUEST'].summary}: ${name}: `, ''));
    }
  });
}

/** `10m` to the time that was so long ago. */
function since(text: string): string {
  try {
    return String(Date.now() - 1000 * Number(duration.read(duration.fromText(text))));
  } catch {
    throw new InvalidArgumentError(`${JSON.stringify(text)} is no span of time such as 30s, 10m or 2h.`);
  }
}

export function monitorCommand(): Command {
  return command<Options>({
    name: 'monitor',
    summary: 'Show what becomes of packets, as it happens: dropped, allowed, or audited',
    details: [
      'Without --follow, the newest verdicts that the agent remembers. Drops and audited denials are always remembered; new connections that are allowed are looked at only while somebody follows without --drops.',
      'An end of --from and --to is "self" (this machine), an address, a prefix, the number of an identity, the name of a node or a service, a DNS name, or labels (k8s:app=web,env!=test).',
    ].join('\n\n'),
    examples: [
      ['monitor', 'the last 20 verdicts'],
      ['monitor --drops -f', 'drops as they happen, each with the command that explains it'],
      ['monitor -f --from k8s:app=frontend --port 8080', 'all that a frontend opens on a port'],
      ['monitor --since 10m --verdict dropped,audit -o json', 'for scripts'],
    ],
    shared: SHOWS_AGENT,
    options: [
      new Option('-f, --follow', 'go on with what happens; in JSON, one event a line'),
      new Option('--drops', 'only what is dropped').conflicts('verdict'),
      filter('--from <end>', 'from', 'only packets from there'),
      filter('--to <end>', 'to', 'only packets to there'),
      filter('--identity <numbers>', 'identity', 'only packets from or to these identities'),
      filter('--label <labels>', 'label', 'only packets from or to whoever has these labels'),
      filter('--port <ports>', 'port', 'only these ports of either end: 80, tcp/80, 8000-8100'),
      filter('--protocol <protocols>', 'protocol', 'tcp, udp, sctp, icmp, icmpv6 or a number'),
      filter('--verdict <verdicts>', 'verdict', 'dropped, audit, allowed'),
      filter('--direction <direction>', 'direction', 'ingress or egress'),
      new Option('--since <span>', 'only what is not older: 30s, 10m, 2h').argParser(since),
      filter('--last <number>', 'last', 'so many of the newest that fit (default: 20, or all with --since)'),
      new Option('--compact', 'one line for each packet, in the style of Cilium'),
    ],
    run: monitor,
  });
}

async function monitor(call: Call<Options>): Promise<ExitCode> {
  const { from, to, identity, label, port, protocol, direction, last, follow, drops } = call.options;
  const verdict = drops === true ? 'dropped' : call.options.verdict;
  const query = given({
    from,
    to,
    identity,
    label,
    port,
    protocol,
    direction,
    last,
    verdict,
    since: call.options.since,
  });
  const ended = new AbortController();
  const end = (): void => ended.abort();
  // What was not shown is said at the end, also at an end by Ctrl-C.
  if (follow === true) process.once('SIGINT', end);
  try {
    const events = askAgent(call).flows({ ...query, ...(follow && { follow: '1' }) }, ended.signal);
    await show(call, events);
  } finally {
    process.off('SIGINT', end);
  }
  return EXIT.ok;
}

async function show(call: Call<Options>, events: AsyncIterable<FlowEvent>): Promise<void> {
  const { terminal, options } = call;
  const { output, follow } = options;
  const counts = { shown: 0, lost: 0 };
  if ((output === 'json' || output === 'yaml') && follow !== true) {
    const lost: string[] = [];
    const records = flowsOf(events, (text) => lost.push(text));
    await writeList({ terminal, format: output, kind: 'FlowList', records, columns: [] });
    for (const text of lost) terminal.error.write(text);
    return;
  }
  const style: MonitorStyle = {
    color: terminal.color,
    columns: terminal.columns,
    wide: output === 'wide',
    // The command is to be typed as it stands, also where the agent is not in its usual place.
    place: (['config', 'stateDir', 'socket'] as const).flatMap((name) => {
      const value = options[name];
      return value === undefined ? [] : [`--${name === 'stateDir' ? 'state-dir' : name}`, value];
    }),
  };
  for await (const event of events) {
    if ('alive' in event) continue;
    if ('flow' in event) counts.shown++;
    else counts.lost += event.lost.packets;
    await write(terminal.out, textOf(event, options, style));
  }
  if (output === 'json' || output === 'yaml') return;
  if (counts.shown === 0) terminal.error.write('no packet that fits was seen\n');
  else if (counts.lost > 0) terminal.error.write(`${plural(counts.shown, 'packet')} shown, ${counts.lost} not\n`);
}

function textOf(
  event: Exclude<FlowEvent, { alive: number }>,
  options: Options & { output: string },
  style: MonitorStyle,
) {
  if (options.output === 'json') return `${jsonText(event)}\n`;
  if (options.output === 'yaml') return `---\n${yamlText(event)}`;
  if ('lost' in event) return lostText(event.lost, style);
  return options.compact === true ? compactText(event.flow) : flowText(event.flow, style);
}

async function* flowsOf(events: AsyncIterable<FlowEvent>, onLost: (text: string) => void): AsyncIterable<FlowRecord> {
  for await (const event of events) {
    if ('flow' in event) yield event.flow;
    else if ('lost' in event) onLost(lostText(event.lost));
  }
}
